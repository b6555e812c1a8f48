"""What this machine offers: versions, devices, what is on, and how to turn on the rest."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from torch2rt.backends.devices import open_backend
from torch2rt.config import default_timing_cache

_PACKAGES = ("torch2rt", "torch", "numpy", "safetensors", "tqdm", "onednn-cpu-gomp",
             "llvmlite")


def doctor_lines() -> Iterator[str]:
    """The findings, a line each."""
    yield f"python {platform.python_version()} on {platform.platform()}"
    for name in _PACKAGES:
        yield f"{name} {_version(name)}"
    yield from _cpu_lines()
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
