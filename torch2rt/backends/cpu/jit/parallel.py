"""One compiled function of one input and one output, run by every thread on its share of rows.

The function's argument is the address of four 64-bit numbers: the addresses of input and output,
and of omp_get_thread_num and omp_get_num_threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.backends.buffer import Buffer, address_of
from torch2rt.backends.cpu.jit.function import Function
from torch2rt.backends.cpu.onednn.openmp import openmp
from torch2rt.backends.tactic import Call, Prepared
from torch2rt.network.dtype import Array


@dataclass(frozen=True, slots=True)
class RowFunction:
    """A function being written that does rows, with the pointers of its two operands."""

    f: Function
    source: str
    target: str
    begin: str
    end: str


@contextmanager
def row_function(name: str, lanes: int, rows: int) -> Iterator[RowFunction]:
    """A function over ``rows`` rows in all; what is written inside runs where a thread has any.

    ``begin`` and ``end`` are the thread's own.
    """
    f = Function(name, [("ptr", "data")], lanes)
    fields = [f.load("i64", f.at("%data", index, "i64"), 8) for index in range(4)]
    source, target = (f.value(f"inttoptr i64 {field} to ptr") for field in fields[:2])
    numbers = []
    for field in fields[2:]:
        pointer = f.value(f"inttoptr i64 {field} to ptr")
        narrow = f.value(f"call i32 {pointer}()")
        numbers.append(f.value(f"sext i32 {narrow} to i64"))
    thread, count = numbers
    begin = f.integer("sdiv", f.integer("mul", thread, rows), count)
    following = f.integer("add", thread, 1)
    end = f.integer("sdiv", f.integer("mul", following, rows), count)
    with f.when(f.compare("slt", begin, end)):
        yield RowFunction(f, source, target, begin, end)


@dataclass
class RowsPrepared(Prepared):
    """The function at an address, run by ``threads`` threads."""

    function: int
    threads: int

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call."""
        return [(_RowsCall(self, inputs[0], outputs[0]), ())]


class _RowsCall:
    """Runs the function on the OpenMP team that oneDNN uses as well."""

    __slots__ = ("_arguments", "_numbers", "_parallel")

    def __init__(self, prepared: RowsPrepared, source: Buffer, target: Buffer) -> None:
        library = openmp()
        self._numbers: Array = np.array([
            source.address, target.address, address_of_function(library.omp_get_thread_num),
            address_of_function(library.omp_get_num_threads),
        ], np.int64)
        for position, buffer in enumerate((source, target)):
            buffer.on_move(self._setter(position))
        self._parallel = library.GOMP_parallel
        self._arguments = (
            ctypes.c_void_p(prepared.function), ctypes.c_void_p(address_of(self._numbers)),
            ctypes.c_uint(prepared.threads), ctypes.c_uint(0),
        )

    def _setter(self, position: int) -> Callable[[int], None]:
        return lambda address: self._numbers.__setitem__(position, address)

    def __call__(self) -> None:
        """Run it."""
        self._parallel(*self._arguments)


class ParallelCall:
    """Runs the function at an address, with that of its numbers, on oneDNN's OpenMP team.

    ``memory`` is what the numbers point to, kept with them.
    """

    __slots__ = ("_arguments", "_memory", "_parallel")

    def __init__(self, function: int, threads: int, numbers: Array, memory: object) -> None:
        self._memory = (numbers, memory)
        self._parallel = openmp().GOMP_parallel
        self._arguments = (
            ctypes.c_void_p(function), ctypes.c_void_p(address_of(numbers)),
            ctypes.c_uint(threads), ctypes.c_uint(0),
        )

    def __call__(self) -> None:
        """Run it."""
        self._parallel(*self._arguments)


def follow(buffer: Buffer, numbers: Array, position: int) -> None:
    """Keep a number equal to a buffer's address."""
    numbers[position] = buffer.address
    move: Callable[[int], None] = lambda address: numbers.__setitem__(position, address)  # noqa: E731
    buffer.on_move(move)


def address_of_function(function: Any) -> int:
    """Address of a function of a loaded library."""
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
