"""Numbers in memory: f32, or bf16 that is widened when loaded and rounded when stored."""

from __future__ import annotations

from enum import Enum

import numpy as np

from torch2rt.backends.cpu.jit import Function
from torch2rt.network.dtype import Array, DType


class Element(Enum):
    """The type of the numbers of a tensor; the value is LLVM's name. Arithmetic is in f32."""

    F32 = "float"
    BF16 = "bfloat"

    @property
    def size_bytes(self) -> int:
        """Bytes of one number."""
        return 4 if self is Element.F32 else 2

    def vector(self, lanes: int) -> str:
        """LLVM's name of so many numbers."""
        return f"<{lanes} x {self.value}>"

    def load(self, f: Function, pointer: str) -> str:
        """A vector of f32 from memory."""
        if self is Element.F32:
            return f.load(f.vector, pointer)
        wide = f"<{f.lanes} x i32>"
        bits = f.load(f"<{f.lanes} x i16>", pointer, 2)
        bits = f.value(f"zext <{f.lanes} x i16> {bits} to {wide}")
        bits = f.value(f"shl {wide} {bits}, splat (i32 16)")
        return f.value(f"bitcast {wide} {bits} to {f.vector}")

    def load_one(self, f: Function, pointer: str) -> str:
        """One f32 from memory."""
        if self is Element.F32:
            return f.load("float", pointer)
        bits = f.value(f"zext i16 {f.load('i16', pointer, 2)} to i32")
        return f.value(f"bitcast i32 {f.value(f'shl i32 {bits}, 16')} to float")

    def store(self, f: Function, value: str, pointer: str) -> None:
        """A vector of f32 to memory, rounded to nearest."""
        if self is Element.F32:
            f.store(f.vector, value, pointer)
            return
        kind = self.vector(f.lanes)
        f.store(kind, f.value(f"fptrunc {f.vector} {value} to {kind}"), pointer, 2)


ELEMENTS = {DType.FLOAT32: Element.F32, DType.BFLOAT16: Element.BF16}


def widened(values: Array) -> Array:
    """Values as f32; 16-bit integers are the bits of bf16."""
    if values.dtype != np.uint16:
        return np.asarray(values, np.float32)
    return (values.astype(np.uint32) << 16).view(np.float32)


def rounded_bits(values: Array) -> Array:
    """The bits, uint16, of f32 values rounded to the nearest bf16; one NaN for all."""
    bits = values.view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = ((bits + (0x7FFF + odd)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded
