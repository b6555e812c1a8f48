"""The doctor says what is there, and what to do about what is not."""

import numpy
import torch

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.backend import onednn_unavailable
from torch2rt.errors import DeviceError
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


PIECES = ("CuPy", "NVRTC", "cuDNN", "cuDNN frontend", "cuBLASLt", "Triton")


def test_every_piece_of_the_cuda_backend_is_on_or_says_how_to_turn_it_on():
    lines = list(doctor.cuda_lines())
    assert lines[0].startswith("cuda: ")
    for piece in PIECES:
        line = next(line for line in lines if line.startswith(f"{piece}: "))
        assert ": on, " in line or "pip install 'torch2rt[cuda]'" in line


def test_nothing_installed_is_off_with_reasons(monkeypatch):
    from torch2rt.backends.cuda import libraries, requirements

    def nothing(name):
        raise libraries.LibraryMissing(f"No {name}. Install it: pip install 'torch2rt[cuda]'")

    monkeypatch.setattr(libraries, "load_library", nothing)
    monkeypatch.setattr(requirements, "package_version", lambda name: "none")
    monkeypatch.setattr(doctor, "open_backend", _no_gpu)
    lines = list(doctor.cuda_lines())
    assert lines[0] == "cuda: off, no GPU. Use the CPU."
    assert len(lines) == 1 + len(PIECES)
    assert all(": off (" in line and "pip install" in line for line in lines[1:])


def _no_gpu(device):
    raise DeviceError(device=device, reason="no GPU", remedy="Use the CPU.")
