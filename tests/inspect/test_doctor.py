"""The doctor says what is there, and what to do about what is not."""

import numpy
import torch

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.backend import onednn_unavailable
from torch2rt.inspect import doctor


def test_it_names_versions_device_and_library():
    lines = list(doctor.doctor_lines())
    assert any(line == f"numpy {numpy.__version__}" for line in lines)
    assert any(line.startswith(f"torch {torch.__version__.split('+')[0]}") for line in lines)
    assert any(line.startswith("cpu: ") and "threads" in line for line in lines)
    assert any(line.startswith("timing cache: ") for line in lines)
    if onednn_unavailable() is None:
        assert any(str(onednn.path()) in line for line in lines)
        assert any(line.startswith("OpenMP run times in this process: ") for line in lines)


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(doctor, "_PACKAGES", ("no-such-package-here",))
    lines = list(doctor.doctor_lines())
    assert "no-such-package-here not installed: pip install no-such-package-here" in lines


def test_without_onednn_it_says_so_and_why(monkeypatch):
    reason = "no libdnnl.so.3 found"
    monkeypatch.setattr("torch2rt.backends.cpu.backend.onednn_unavailable", lambda: reason)
    lines = list(doctor.doctor_lines())
    assert any(line.startswith("oneDNN: off") and reason in line for line in lines)
    assert any(line == f"note: {reason}" for line in lines)
