import subprocess
import sys

import pytest
from needs import needs_onednn

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.onednn import openmp
from torch2rt.backends.cpu.onednn.loader import SONAME, candidate_paths, check, load_first


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


@needs_onednn
def test_a_new_enough_library_is_loaded_from_the_environment():
    assert onednn.version() >= (3, 1, 0)
    assert onednn.path().endswith(SONAME)
    assert onednn.path() == next(candidate_paths())
    assert onednn.effective_isa()


def test_a_missing_library_says_how_to_get_it():
    with pytest.raises(onednn.OneDNNUnavailable, match=r"nowhere/libdnnl.*pip install 'onednn-cpu"):
        load_first(iter(["/nowhere/libdnnl.so.3"]))


@needs_onednn
def test_a_library_that_is_not_onednn_is_passed_over():
    with pytest.raises(onednn.OneDNNUnavailable, match="dnnl_"):
        load_first(iter(["libm.so.6"]))
    assert load_first(iter(["libm.so.6", onednn.path()])).version == onednn.version()


@needs_onednn
def test_a_library_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr("torch2rt.backends.cpu.onednn.loader.OLDEST", (99, 0))
    with pytest.raises(onednn.OneDNNUnavailable, match=r"is version 3\.\d+\.\d+"):
        load_first(iter([onednn.path()]))


def test_check_names_the_status_the_call_and_the_deed():
    check(0, "dnnl_x", "sitting")
    with pytest.raises(onednn.OneDNNError, match="oneDNN dnnl_x returned out_of_memory while sit"):
        check(1, "dnnl_x", "sitting")
    with pytest.raises(onednn.OneDNNError, match="returned status 77 while"):
        check(77, "dnnl_x", "sitting")


@needs_onednn
def test_the_package_imports_and_runs_without_torch_or_a_loaded_library():
    code = """
import sys
import torch2rt.backends.cpu.onednn as onednn
assert "libdnnl" not in open("/proc/self/maps").read()
d = onednn.MemoryDesc.plain((1, 8), onednn.DataType.f32)
onednn.Primitive(onednn.eltwise(onednn.Algorithm.relu, d, d))
print("torch" in sys.modules)
"""
    assert run_python(code) == "False"


@pytest.mark.parametrize(
    "order",
    ["onednn.openmp(); import torch", "import torch; onednn.openmp()"],
)
def test_one_openmp_run_time_whatever_is_loaded_first(order):
    code = f"""
import torch2rt.backends.cpu.onednn.openmp as onednn
from torch2rt.backends.cpu.onednn import library
{order}
library()
print(len(onednn.mapped_openmp_paths()))
"""
    assert run_python(code) == "1"


def test_torch_brings_the_openmp_run_time_where_the_system_has_none(monkeypatch):
    path = openmp.torch_openmp_path()
    if path is None:
        pytest.skip("this torch has no libgomp of its own")
    code = f"""
import torch2rt.backends.cpu.onednn.openmp as openmp
openmp.SONAME = "libgomp-that-is-not-there.so"
openmp.torch_openmp_path = lambda: {path!r}
openmp.set_threads(1)
print(openmp.mapped_openmp_paths())
"""
    assert run_python(code) == str([path])


def test_no_openmp_run_time_at_all_is_explained(monkeypatch):
    monkeypatch.setattr(openmp, "SONAME", "libgomp-that-is-not-there.so")
    monkeypatch.setattr(openmp, "torch_openmp_path", lambda: None)
    with pytest.raises(onednn.OneDNNUnavailable, match="the OpenMP run time is missing"):
        openmp._load()


def test_thread_counts_are_set_and_refused():
    onednn.set_threads(1)
    assert onednn.get_threads() == 1
    onednn.set_threads(2)
    assert onednn.get_threads() == 2
    with pytest.raises(ValueError, match="0 threads: at least 1 needed"):
        onednn.set_threads(0)


def test_instruction_sets_can_be_limited_before_the_first_primitive():
    code = """
import torch2rt.backends.cpu.onednn as onednn
onednn.set_max_isa(onednn.Isa.sse41)
onednn.prefer_ymm()
print(onednn.effective_isa())
"""
    assert run_python(code) == "sse41"


def test_instruction_sets_cannot_be_limited_later():
    code = """
import torch2rt.backends.cpu.onednn as onednn
d = onednn.MemoryDesc.plain((1, 8), onednn.DataType.f32)
onednn.Primitive(onednn.eltwise(onednn.Algorithm.relu, d, d))
try:
    onednn.set_max_isa(onednn.Isa.sse41)
except onednn.OneDNNError as error:
    print(error)
"""
    assert run_python(code) == (
        "oneDNN dnnl_set_max_cpu_isa returned invalid_arguments while limiting code to sse41."
    )
