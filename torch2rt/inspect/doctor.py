"""What this machine offers: versions, devices, what is on, and how to turn on the rest."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from torch2rt.backends.devices import open_backend
from torch2rt.config import default_timing_cache
from torch2rt.errors import DeviceError

_INSTALL_CUDA = "pip install 'torch2rt[cuda]'"
_PACKAGES = ("torch2rt", "torch", "numpy", "safetensors", "tqdm", "onednn-cpu-gomp",
             "llvmlite")


def doctor_lines() -> Iterator[str]:
    """The findings, a line each."""
    yield f"python {platform.python_version()} on {platform.platform()}"
    for name in _PACKAGES:
        yield f"{name} {_version(name)}"
    yield from _cpu_lines()
    yield from cuda_lines()
    yield f"timing cache: {default_timing_cache()}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"not installed: pip install {name}"


def _cpu_lines() -> Iterator[str]:
    from torch2rt.backends.cpu import onednn
    from torch2rt.backends.cpu.backend import CpuBackend, onednn_unavailable
    from torch2rt.backends.cpu.jit import jit_unavailable

    backend = open_backend("cpu")
    assert isinstance(backend, CpuBackend)
    yield f"cpu: {backend.fingerprint()}"
    reason = onednn_unavailable()
    if reason is None:
        yield f"oneDNN: on, {onednn.path()}"
        yield f"OpenMP run times in this process: {', '.join(onednn.mapped_openmp_paths())}"
    else:
        yield f"oneDNN: off, layers run through torch and numpy. {reason}"
    reason = jit_unavailable()
    state = "on" if reason is None else f"off, oneDNN's run instead. {reason}"
    yield f"kernels of our own: {state}"
    for note in backend.notes:
        yield f"note: {note}"


def cuda_lines() -> Iterator[str]:
    """The GPU, then the pieces of the CUDA backend: what is on, and what turns the others on."""
    from torch2rt.backends.cuda import requirements

    try:
        backend = open_backend("cuda")
    except DeviceError as error:
        yield f"cuda: off, {error.facts['reason']}. {error.facts['remedy']}"
    else:
        yield f"cuda: {backend.fingerprint()}"
        peaks = backend.peaks()
        if peaks is None:
            yield "note: the peaks of this GPU are not known; the report gives no share of them"
    yield _package_line("CuPy", requirements.cupy_version(), "memory, streams and CUDA graphs")
    yield _library_line("NVRTC", "nvrtc", "kernels of our own in CUDA C++")
    yield _library_line("cuDNN", "cudnn", "convolutions and attention")
    frontend = requirements.package_version("nvidia-cudnn-frontend")
    yield _package_line("cuDNN frontend", frontend, "cuDNN's graphs")
    yield _library_line("cuBLASLt", "cublasLt", "matrix products")
    triton = requirements.triton_version()
    yield _package_line("Triton", triton, "kernels of our own, compiled when an engine is built")


def _library_line(title: str, name: str, use: str) -> str:
    from torch2rt.backends.cuda.libraries import LibraryMissing, load_library

    try:
        library = load_library(name)
    except LibraryMissing as error:
        return f"{title}: off ({use}). {error}"
    return f"{title}: on, {library._name}"


def _package_line(title: str, version: str, use: str) -> str:
    if version == "none":
        return f"{title}: off ({use}). Install it: {_INSTALL_CUDA}"
    return f"{title}: on, {version}"
