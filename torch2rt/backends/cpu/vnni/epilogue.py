"""A layer's epilogue on int32 sums in registers, and how its result is stored.

Literals are read from memory like other operands, so that layers that differ in them alone share
a kernel. Arithmetic is in f32, products and sums contracted. A result of 8 bits is clamped, then
rounded, halves to even; that is the same as rounded, then clamped to whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torch2rt import expression as ex
from torch2rt.backends.cpu.expression_steps import without_root_cast
from torch2rt.backends.cpu.jit import Function
from torch2rt.backends.cpu.jit.print_vector import missing_op, print_vector
from torch2rt.backends.cpu.quantized import integer_refusal, without_rounding
from torch2rt.backends.spec import LayerSpec
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import DType

_INTEGERS = "<16 x i32>"
_BYTES = "<16 x i8>"
_FLOATS = "<16 x float>"
_ROUND = "@llvm.x86.avx512.mask.cvtps2dq.512"
_STORED = {
    DType.FLOAT32: "float", DType.INT32: "i32", DType.INT8: "i8", DType.UINT8: "i8",
}


class TileFunction(Function):
    """A function whose products and sums of floats may be one instruction, rounded once."""

    def math(self, op: str, left: str, right: str) -> str:
        """``fadd``, ``fsub``, ``fmul`` or ``fdiv`` of vectors."""
        return self.value(f"{op} contract {self.vector} {left}, {right}")


@dataclass(frozen=True, slots=True)
class Operand:
    """A further input: "tensor" like the output, "channel" for one number each, or "scalar"."""

    kind: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Epilogue:
    """The value to store as ``dtype``, of i0, the sums, and operands i1, i2, ...

    Behind the operands come the literals, each an input as well. None: the sums themselves.
    """

    root: ex.Expression | None
    operands: tuple[Operand, ...]
    literals: int
    dtype: DType


def refusal_reason(spec: LayerSpec) -> str | None:
    """Why an epilogue is not computed here, or None."""
    output = spec.outputs[0].dtype
    if output not in _STORED or (output is DType.INT32) != (spec.epilogue is None):
        return f"{output.value} is not what the kernel stores"
    if spec.epilogue is None:
        return None
    further = range(spec.main_count, len(spec.inputs))
    dtypes = (DType.INT32, *(spec.inputs[index].dtype for index in further))
    refused = integer_refusal(spec.epilogue, dtypes, output)
    if refused is not None:
        return refused.reason
    missing = missing_op(_value(spec))
    if missing is not None:
        return f"the kernel has no {missing}"
    for index in further:
        if operand_of(spec, index) is None:
            return f"epilogue input {index} is neither like the output nor one number per channel"
    return None


def operand_of(spec: LayerSpec, index: int) -> Operand | None:
    """How an epilogue input is read, or None."""
    given, target = spec.inputs[index], spec.outputs[0]
    if given.shape == target.shape and spec.constants[index] is None:
        is_known = given.dtype in (*EIGHT_BITS, DType.FLOAT32)
        return Operand("tensor", given.dtype) if is_known else None
    if given.dtype is not DType.FLOAT32:
        return None
    if given.element_count == 1:
        return Operand("scalar", given.dtype)
    shape = (1,) * (target.rank - given.rank) + given.shape
    is_channel = shape == (1, target.shape[1], *[1] * (target.rank - 2))
    return Operand("channel", given.dtype) if is_channel else None


def epilogue_of(spec: LayerSpec) -> tuple[Epilogue, list[float]]:
    """The epilogue of a layer that is not refused, and its literals."""
    dtype = spec.outputs[0].dtype
    if spec.epilogue is None:
        return Epilogue(None, (), 0, dtype), []
    operands = [operand_of(spec, index) for index in range(spec.main_count, len(spec.inputs))]
    known = tuple(operand for operand in operands if operand is not None)
    literals: list[float] = []
    root = _without_literals(_value(spec), len(known) + 1, literals)
    return Epilogue(root, known, len(literals), dtype), literals


def _value(spec: LayerSpec) -> ex.Expression:
    """What is stored, without the rounding and clamping that storing does."""
    assert spec.epilogue is not None
    dtype = spec.outputs[0].dtype
    return without_rounding(without_root_cast(spec.epilogue, dtype), dtype)


def _without_literals(
    node: ex.Expression, first: int, literals: list[float]
) -> ex.Expression:
    """The expression with inputs from ``first`` on for its literals, which are appended."""
    if isinstance(node, ex.Constant):
        literals.append(float(node.value))
        return ex.Input(first + len(literals) - 1)
    if isinstance(node, ex.Apply):
        arguments = [_without_literals(item, first, literals) for item in node.arguments]
        return ex.apply(node.op, *arguments)
    return node


class EpilogueWriter:
    """Adds the end of a tile's function.

    The table holds the addresses of the output, of the operands, and of the literals.
    """

    DECLARED: ClassVar[str] = (
        f"declare {_INTEGERS} {_ROUND}({_FLOATS}, {_INTEGERS}, i16, i32)\n"
    )

    def __init__(
        self, f: TileFunction, epilogue: Epilogue, vectors: int, out_channels: int
    ) -> None:
        self.f = f
        self.epilogue = epilogue
        self.vectors = vectors
        self.out_channels = out_channels
        count = len(epilogue.operands) + 1 + (epilogue.literals > 0)
        self.bases = [f.load("ptr", f.at("%table", i, "i64"), 8) for i in range(count)]

    def write(self, sums: Sequence[str]) -> None:
        """Store the sums of a tile, pixel by pixel."""
        f = self.f
        fixed = [self._fixed(vector) for vector in range(self.vectors)]
        for index, total in enumerate(sums):
            pixel, vector = divmod(index, self.vectors)
            shift = pixel * self.out_channels + vector * f.lanes
            place = f.integer("add", "%place", shift)
            self._store(self._result(total, place, fixed[vector]), place)

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

    def _result(self, total: str, place: str, fixed: dict[int, str]) -> str:
        f = self.f
        if self.epilogue.root is None:
            return total
        inputs = {0: f.value(f"sitofp {_INTEGERS} {total} to {f.vector}"), **fixed}
        for index, operand in enumerate(self.epilogue.operands, 1):
            if operand.kind == "tensor":
                inputs[index] = self._loaded(operand.dtype, self.bases[index], place)
        return print_vector(f, self.epilogue.root, inputs)

    def _loaded(self, dtype: DType, base: str, place: str) -> str:
        f = self.f
        pointer = f.at(base, place, _STORED[dtype])
        if dtype is DType.FLOAT32:
            return f.load(f.vector, pointer)
        widened = "zext" if dtype is DType.UINT8 else "sext"
        wide = f.value(f"{widened} {_BYTES} {f.load(_BYTES, pointer, 1)} to {_INTEGERS}")
        return f.value(f"sitofp {_INTEGERS} {wide} to {f.vector}")

    def _store(self, value: str, place: str) -> None:
        f, dtype = self.f, self.epilogue.dtype
        pointer = f.at(self.bases[0], place, _STORED[dtype])
        if dtype not in EIGHT_BITS:
            f.store(f"<16 x {_STORED[dtype]}>", value, pointer)
            return
        limits = np.iinfo(dtype.numpy)
        low, high = (f.constant(float(limit)) for limit in (limits.min, limits.max))
        value = f.select("ogt", value, low, value, low)
        value = f.select("olt", value, high, value, high)
        whole = f.value(
            f"call {_INTEGERS} {_ROUND}({f.vector} {value}, {_INTEGERS} zeroinitializer, "
            "i16 -1, i32 4)"
        )
        f.store(_BYTES, f.value(f"trunc {_INTEGERS} {whole} to {_BYTES}"), pointer, 1)
