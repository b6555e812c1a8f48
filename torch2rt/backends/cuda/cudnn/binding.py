"""The package ``cudnn`` (nvidia-cudnn-frontend) with the libraries it needs, without torch."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from torch2rt.backends.cuda.libraries import LibraryMissing, load_library
from torch2rt.backends.tactic import Unprepared

# cuDNN and its package open these by name. Without cuBLASLt cuDNN aborts the process.
_LIBRARIES = ("cudart", "nvrtc", "cublasLt", "cudnn")

# Handles are not for several threads at once, and have one stream at a time.
USING_HANDLE = threading.RLock()


@cache
def cudnn() -> Any:
    """The package, its libraries loaded. Unprepared says what is missing."""
    try:
        for name in _LIBRARIES:
            load_library(name)
        import cudnn
    except (LibraryMissing, ImportError) as error:
        raise Unprepared(f"cuDNN cannot be used: {error}") from error
    return cudnn


def failures() -> tuple[type[Exception], ...]:
    """What the package raises for a graph or plan that cuDNN does not take."""
    return cudnn().cudnnGraphNotSupportedError, RuntimeError, ValueError


def current_gpu() -> int:
    """Index of the GPU that is current in this thread."""
    import cupy

    return int(cupy.cuda.runtime.getDevice())


def on_gpu(gpu: int) -> AbstractContextManager[Any]:
    """Inside, this GPU is the current one."""
    import cupy

    device: AbstractContextManager[Any] = cupy.cuda.Device(gpu)
    return device


@cache
def _handle_of(gpu: int) -> Any:
    with on_gpu(gpu):
        return cudnn().create_handle()


def idle_handle(gpu: int) -> Any:
    """The cuDNN handle of a GPU, made once, on the default stream.

    It outlives the streams that plans ran on, and cuDNN asks the driver about the one it has.
    """
    handle = _handle_of(gpu)
    cudnn().set_stream(handle, 0)
    return handle
