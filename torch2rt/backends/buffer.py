"""Memory of one tensor in one context."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import addressof
from typing import Any

import numpy as np

from torch2rt.backends.spec import TensorSpec
from torch2rt.network.dtype import Array

# Kernels of a GPU load vectors of so many bytes: memory of the caller that starts elsewhere, such
# as part of a batch, is copied first.
VECTOR_BYTES = 16

_from_buffer: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer


class Buffer:
    """Where a tensor lies: an address and what is there.

    Buffers of network inputs and outputs move from call to call; `move` tells the steps that hold
    the address, and ``moves`` says that it will. ``constant`` names the constant it is, and then
    there is no address.
    """

    __slots__ = ("_listeners", "address", "constant", "moves", "spec")

    def __init__(
        self, spec: TensorSpec, address: int = 0, constant: str | None = None, *,
        moves: bool = False,
    ) -> None:
        self.spec = spec
        self.address = address
        self.constant = constant
        self.moves = moves
        self._listeners: list[Callable[[int], object]] = []

    def on_move(self, listener: Callable[[int], object]) -> None:
        """Call ``listener(address)`` whenever the buffer moves."""
        self._listeners.append(listener)

    def move(self, address: int) -> None:
        """Point every step that reads or writes it at another address."""
        if address != self.address:
            self.address = address
            for listener in self._listeners:
                listener(address)

    def array(self) -> Array:
        """The bytes at the address as an array of the spec's shape. Row-major specs only."""
        return array_at(self.address, self.spec)


def array_at(address: int, spec: TensorSpec) -> Array:
    """An array over memory that somebody else owns. Row-major specs only."""
    if spec.size_bytes == 0:
        return np.empty(spec.shape, spec.dtype.numpy)
    raw = memoryview((ctypes.c_char * spec.size_bytes).from_address(address))
    return np.ndarray(spec.shape, spec.dtype.numpy, raw)


def aligned_bytes(size: int, alignment: int = 64) -> Array:
    """Zeroed memory of at least ``size`` bytes that starts at a multiple of ``alignment``."""
    raw = np.zeros(size + alignment, np.uint8)
    start = -raw.__array_interface__["data"][0] % alignment
    return raw[start : start + size]


def address_of(array: Array) -> int:
    """Address of an array's first byte."""
    try:
        return addressof(_from_buffer(array))  # 0.2 us; the interface below takes 0.8 us
    except (TypeError, ValueError, BufferError):  # read-only, empty or strided
        return int(array.__array_interface__["data"][0])
