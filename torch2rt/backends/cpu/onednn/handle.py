"""Ownership of C objects, and the process-wide engine."""

import ctypes
import threading
import weakref

from torch2rt.backends.cpu.onednn.constants import CPU_ENGINE, IN_ORDER_STREAM
from torch2rt.backends.cpu.onednn.loader import call, library


class Handle:
    """Owns one C object: `pointer` is its address, destroyed with the Python object."""

    __slots__ = ("__weakref__", "pointer")

    def __init__(self, pointer: int, destroy: str) -> None:
        self.pointer = pointer
        finalizer = weakref.finalize(self, library().function(destroy), pointer)
        # At exit the process frees everything; destroying then races with the library's own exit.
        finalizer.atexit = False


def out_pointer() -> ctypes.c_void_p:
    """An empty out parameter; pass `ctypes.byref(it)`, then read `.value`."""
    return ctypes.c_void_p()


def pointer_of(cell: ctypes.c_void_p) -> int:
    """The address that a successful call stored in an out parameter."""
    return cell.value or 0


_lock = threading.Lock()
_engines: list[int] = []


def engine() -> int:
    """Handle of the process-wide CPU engine, created once and never destroyed."""
    with _lock:
        if not _engines:
            cell = out_pointer()
            call("dnnl_engine_create", ctypes.byref(cell), CPU_ENGINE, 0, what="opening the CPU")
            _engines.append(pointer_of(cell))
        return _engines[0]


class Stream(Handle):
    """An in-order CPU stream: what a context executes on. One thread at a time."""

    __slots__ = ()

    def __init__(self) -> None:
        cell = out_pointer()
        call(
            "dnnl_stream_create",
            ctypes.byref(cell),
            engine(),
            IN_ORDER_STREAM,
            what="creating a stream",
        )
        super().__init__(pointer_of(cell), "dnnl_stream_destroy")
