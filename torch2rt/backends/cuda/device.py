"""The device that tactics prepare for: what they may ask of it, and which one is current.

`CudaBackend.building` makes a device current; tactics call `current_device()`. Tests put an
emulated device there, which compiles CUDA C++ with the host's compiler and runs it on the CPU.
"""

from __future__ import annotations

import abc
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch2rt.backends.tactic import Job
from torch2rt.network.dtype import Array

Dim3 = tuple[int, int, int]
# The first that multiplies float8.
FLOAT8_CAPABILITY = (8, 9)


class Memory(abc.ABC):
    """Device memory, kept alive by this object. ``address`` is that of its first byte."""

    address: int
    size_bytes: int


class Kernel(abc.ABC):
    """A loaded kernel."""

    name: str
    # Of a thread; 0 where nobody counts them.
    registers: int = 0

    @abc.abstractmethod
    def launch(
        self, grid: Dim3, block: Dim3, shared_bytes: int, parameters: ctypes.Array[Any],
        stream: int, overlaps: bool,
    ) -> int:
        """Enqueue it; the status, 0 when all is well.

        ``parameters`` holds pointers to the values. ``overlaps`` lets it start before the kernel
        ahead of it has ended (programmatic dependent launch): it waits for that one by itself.
        """


class Device(abc.ABC):
    """One GPU, or what stands in for it."""

    # Compute capability, e.g. (9, 0).
    capability: tuple[int, int]
    multiprocessors: int
    # Shared memory that one block may ask for.
    shared_bytes: int
    l2_bytes: int

    @property
    def arch(self) -> str:
        """The compilers' name of the architecture, e.g. ``sm_90a``."""
        major, minor = self.capability
        return f"sm_{major}{minor}{'a' if major >= 9 else ''}"

    @abc.abstractmethod
    def compile_cpp(self, source: str, name: str) -> Job:
        """The job that compiles CUDA C++ for this device."""

    @abc.abstractmethod
    def load(self, image: bytes, name: str, shared_bytes: int = 0) -> Kernel:
        """A kernel of a compiled image; it may use up to ``shared_bytes`` of dynamic memory."""

    @abc.abstractmethod
    def upload(self, array: Array) -> Memory:
        """A copy of an array in device memory."""

    @abc.abstractmethod
    def allocate(self, size_bytes: int) -> Memory:
        """Uninitialised device memory."""


_current: ContextVar[Device] = ContextVar("torch2rt_cuda_device")


def current_device() -> Device:
    """The device that is being prepared for."""
    return _current.get()


@contextmanager
def preparing_for(device: Device) -> Iterator[None]:
    """Make a device current."""
    token = _current.set(device)
    try:
        yield
    finally:
        _current.reset(token)
