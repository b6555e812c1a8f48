"""A layer's epilogue on int32 sums in registers, and how its result is stored.

Literals are read from memory like other operands, so that layers that differ in them alone share
a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt import expression as ex
from torch2rt.backends.cpu.expression_steps import without_root_cast
from torch2rt.backends.cpu.jit.print_vector import missing_op
from torch2rt.backends.cpu.quantized import integer_refusal, without_rounding
from torch2rt.backends.spec import LayerSpec
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import Array, DType

# So many registers of int32 are packed into one of bytes.
_PACKED = 4
# The output channels of such registers.
PANEL = 64
STORED = {
    DType.FLOAT32: "float", DType.INT32: "i32", DType.INT8: "i8", DType.UINT8: "i8",
}


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

    @property
    def table_size(self) -> int:
        """Addresses of the table: of the output, the operands, and the literals if any."""
        return 1 + len(self.operands) + (self.literals > 0)

    def is_interleaved(self, vectors: int) -> bool:
        """Whether the registers of a panel are packed into one: bytes to and from four of them.

        They then hold the channels that packing puts in order, see `interleaved`.
        """
        tensors = [operand.dtype for operand in self.operands if operand.kind == "tensor"]
        return vectors == _PACKED and all(dtype in EIGHT_BITS for dtype in (*tensors, self.dtype))


def interleaved(channels: Array) -> Array:
    """The first axis, whole panels of four registers, in the order that packing undoes.

    Packing works in quarters of registers: channel 16 q + 4 v + i of a panel is lane 4 q + i of
    register v.
    """
    panels = channels.reshape(-1, 4, _PACKED, 4, *channels.shape[1:])
    swapped: Array = panels.swapaxes(1, 2)
    return swapped.reshape(channels.shape)


def refusal_reason(spec: LayerSpec) -> str | None:
    """Why an epilogue is not computed here, or None."""
    output = spec.outputs[0].dtype
    if output not in STORED or (output is DType.INT32) != (spec.epilogue is None):
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
            return f"epilogue input {index} is neither like the output nor a constant per channel"
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
    is_channel = is_channel and spec.constants[index] is not None
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
