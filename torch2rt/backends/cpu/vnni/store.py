"""The end of a tile's function: the epilogue on registers of int32 sums, and the stores.

Arithmetic is in f32, products and sums contracted. A result of 8 bits is clamped, then rounded,
halves to even; that is the same as rounded, then clamped to whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from torch2rt.backends.cpu.jit import Function
from torch2rt.backends.cpu.jit.print_vector import print_vector
from torch2rt.backends.cpu.vnni.epilogue import STORED, Epilogue
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import DType

_INTEGERS = "<16 x i32>"
_FLOATS = "<16 x float>"
_BYTES = "<16 x i8>"
_SHORTS = "<32 x i16>"
_PANEL = "<64 x i8>"
_X86 = "@llvm.x86.avx512"
STORE_DECLARATIONS = (
    f"declare {_INTEGERS} {_X86}.mask.cvtps2dq.512({_FLOATS}, {_INTEGERS}, i16, i32)\n"
    f"declare {_SHORTS} {_X86}.packssdw.512({_INTEGERS}, {_INTEGERS})\n"
    f"declare {_PANEL} {_X86}.packsswb.512({_SHORTS}, {_SHORTS})\n"
    f"declare {_PANEL} {_X86}.packuswb.512({_SHORTS}, {_SHORTS})\n"
    f"declare {_PANEL} {_X86}.pshuf.b.512({_PANEL}, {_PANEL})\n"
)


class TileFunction(Function):
    """A function whose products and sums of floats may be one instruction, rounded once."""

    def math(self, op: str, left: str, right: str) -> str:
        """``fadd``, ``fsub``, ``fmul`` or ``fdiv`` of vectors."""
        return self.value(f"{op} contract {self.vector} {left}, {right}")


class EpilogueWriter:
    """Adds the end of a tile's function.

    The table holds the addresses of the output, of the operands, and of the literals.
    """

    def __init__(
        self, f: TileFunction, epilogue: Epilogue, vectors: int, out_channels: int
    ) -> None:
        self.f = f
        self.epilogue = epilogue
        self.vectors = vectors
        self.out_channels = out_channels
        self.is_interleaved = epilogue.is_interleaved(vectors)
        self.bases = [
            f.load("ptr", f.at("%table", i, "i64"), 8) for i in range(epilogue.table_size)
        ]

    def write(self, sums: Sequence[str]) -> None:
        """Store the sums of a tile, pixel by pixel."""
        f, vectors = self.f, self.vectors
        fixed = [self._fixed(vector) for vector in range(vectors)]
        for pixel in range(len(sums) // vectors):
            place = f.integer("add", "%place", pixel * self.out_channels)
            tensors = self._tensors(place)
            values = [
                self._value(sums[pixel * vectors + vector], {**fixed[vector], **tensors[vector]})
                for vector in range(vectors)
            ]
            self._store(values, place)

    def _fixed(self, vector: int) -> dict[int, str]:
        """The inputs that are the same for all pixels."""
        f = self.f
        channel = f.integer("add", "%channel", vector * f.lanes)
        fixed = {}
        for index, operand in enumerate(self.epilogue.operands, 1):
            if operand.kind == "channel":
                fixed[index] = f.load(f.vector, f.at(self.bases[index], channel))
            elif operand.kind == "scalar":
                fixed[index] = f.broadcast(f.load("float", self.bases[index]))
        first = len(self.epilogue.operands) + 1
        for number in range(self.epilogue.literals):
            pointer = f.at(self.bases[-1], number)
            fixed[first + number] = f.broadcast(f.load("float", pointer))
        return fixed

    def _tensors(self, place: str) -> list[dict[int, str]]:
        """For each register the inputs that lie as the output does."""
        f = self.f
        inputs: list[dict[int, str]] = [{} for _ in range(self.vectors)]
        for index, operand in enumerate(self.epilogue.operands, 1):
            if operand.kind != "tensor":
                continue
            pointer = f.at(self.bases[index], place, STORED[operand.dtype])
            read = self._interleaved if self.is_interleaved else self._in_order
            for values, value in zip(inputs, read(operand.dtype, pointer), strict=True):
                values[index] = value
        return inputs

    def _in_order(self, dtype: DType, pointer: str) -> Iterable[str]:
        """A pixel's channels, register after register."""
        f = self.f
        for vector in range(self.vectors):
            place = f.at(pointer, vector * f.lanes, STORED[dtype])
            if dtype is DType.FLOAT32:
                yield f.load(f.vector, place)
                continue
            widened = "zext" if dtype is DType.UINT8 else "sext"
            wide = f.value(f"{widened} {_BYTES} {f.load(_BYTES, place, 1)} to {_INTEGERS}")
            yield f.value(f"sitofp {_INTEGERS} {wide} to {f.vector}")

    def _interleaved(self, dtype: DType, pointer: str) -> Iterable[str]:
        """A pixel's bytes, in the order of `interleaved`."""
        f = self.f
        panel = f.load(_PANEL, pointer, 1)
        for vector in range(self.vectors):
            # Of each quarter four bytes, at the low or, to extend the sign, the high end of four.
            end = 0 if dtype is DType.UINT8 else 3
            places = np.full((4, 4, 4), 0x80, np.uint8)
            places[:, :, end] = 4 * vector + np.arange(4)
            mask = ", ".join(f"i8 {place}" for place in places.reshape(-1).view(np.int8))
            spread = f.value(
                f"call {_PANEL} {_X86}.pshuf.b.512({_PANEL} {panel}, {_PANEL} <{mask}>)"
            )
            wide = f.value(f"bitcast {_PANEL} {spread} to {_INTEGERS}")
            if dtype is DType.INT8:
                wide = f.value(f"ashr {_INTEGERS} {wide}, splat (i32 24)")
            yield f.value(f"sitofp {_INTEGERS} {wide} to {f.vector}")

    def _value(self, total: str, inputs: dict[int, str]) -> str:
        """The value to store: int32 if it is stored in 8 bits."""
        f, epilogue = self.f, self.epilogue
        if epilogue.root is None:
            return total
        value = f.value(f"sitofp {_INTEGERS} {total} to {f.vector}")
        value = print_vector(f, epilogue.root, {0: value, **inputs})
        if epilogue.dtype not in EIGHT_BITS:
            return value
        limits = np.iinfo(epilogue.dtype.numpy)
        low, high = (f.constant(float(limit)) for limit in (limits.min, limits.max))
        if not self.is_interleaved:  # else packing clamps, but for what int32 cannot hold
            value = f.select("ogt", value, low, value, low)
        value = f.select("olt", value, high, value, high)
        return f.value(
            f"call {_INTEGERS} {_X86}.mask.cvtps2dq.512({f.vector} {value}, "
            f"{_INTEGERS} zeroinitializer, i16 -1, i32 4)"
        )

    def _store(self, values: Sequence[str], place: str) -> None:
        """The registers of a pixel."""
        f, dtype = self.f, self.epilogue.dtype
        pointer = f.at(self.bases[0], place, STORED[dtype])
        if self.is_interleaved:
            f.store(_PANEL, self._packed(values), pointer, 1)
            return
        for vector, value in enumerate(values):
            here = f.at(pointer, vector * f.lanes, STORED[dtype])
            if dtype in EIGHT_BITS:
                narrow = f.value(f"trunc {_INTEGERS} {value} to {_BYTES}")
                f.store(_BYTES, narrow, here, 1)
            else:
                f.store(f"<16 x {STORED[dtype]}>", value, here)

    def _packed(self, values: Sequence[str]) -> str:
        """Four registers of int32 as one of bytes, clamped."""
        f = self.f
        halves = [
            f.value(
                f"call {_SHORTS} {_X86}.packssdw.512({_INTEGERS} {left}, {_INTEGERS} {right})"
            )
            for left, right in (values[:2], values[2:])
        ]
        name = "packuswb" if self.epilogue.dtype is DType.UINT8 else "packsswb"
        return f.value(
            f"call {_PANEL} {_X86}.{name}.512({_SHORTS} {halves[0]}, {_SHORTS} {halves[1]})"
        )
