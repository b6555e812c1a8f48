"""Opens the backend of a device by its name. Backends are imported only when asked for."""

from __future__ import annotations

from torch2rt.backends.backend import Backend
from torch2rt.errors import DeviceError


def open_backend(device: str | None = None, *, threads: int | None = None) -> Backend:
    """The backend of "cpu" (the default). ``threads``: CPU threads, default all physical cores.

    DeviceError says what is missing.
    """
    name = device or "cpu"
    if name == "cpu":
        from torch2rt.backends.cpu.backend import CpuBackend

        return CpuBackend(threads)
    raise DeviceError(
        device=name, reason="this version of torch2rt has no backend for it",
        remedy='Use device="cpu".',
    )
