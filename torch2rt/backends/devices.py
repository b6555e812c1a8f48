"""Opens the backend of a device by its name. Backends are imported only when asked for."""

from __future__ import annotations

import re
from functools import cache

from torch2rt.backends.backend import Backend
from torch2rt.errors import DeviceError


def open_backend(device: str | None = None, *, threads: int | None = None) -> Backend:
    """The backend of "cpu" (the default), "cuda" or "cuda:1".

    ``threads``: CPU threads, default all physical cores. DeviceError says what is missing.
    """
    name = device or "cpu"
    if name == "cpu":
        from torch2rt.backends.cpu.backend import CpuBackend

        return CpuBackend(threads)
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is not None:
        return _cuda_backend(int(match[1] or 0))
    raise DeviceError(
        device=name, reason="this version of torch2rt has no backend for it",
        remedy='Use device="cpu" or device="cuda".',
    )


@cache
def _cuda_backend(index: int) -> Backend:
    """One backend per GPU: its engines share kernels and memory."""
    from torch2rt.backends.cuda.backend import CudaBackend

    return CudaBackend(index)
