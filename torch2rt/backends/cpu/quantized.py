"""What 8-bit integers change in an epilogue: scales of the accumulator, rounding, residuals.

oneDNN multiplies an int32 accumulator by a scale per output channel before it adds the bias, and
rounds (halves to even) and saturates what it stores in 8 bits. So of

    to_uint8(clamp(round(relu(add(add(mul(to_float32(i0),i1),i2),mul(to_float32(i3),c)))),0,255))

the first product is the primitive's scale, rounding and clamp are the store, and the residual i3
is read as it is stored: x + c r = c (x / c + r), where 1 / c goes into scale and bias.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np

from torch2rt import expression as ex
from torch2rt.backends.cpu.onednn import Algorithm, Arg, DataType, Memory, MemoryDesc, scale_arg
from torch2rt.backends.cpu.post_ops import Link, Links
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import Array, DType

WEIGHT_SCALE = scale_arg(Arg.weights)


def is_quantized(spec: LayerSpec) -> bool:
    """Whether a contraction multiplies 8-bit integers."""
    return all(tensor.dtype in EIGHT_BITS for tensor in spec.inputs[:2])


def integer_refusal(
    root: ex.Expression, dtypes: Sequence[DType], stored: DType
) -> Refusal | None:
    """Why an expression of integers is not what oneDNN computes, or None.

    It computes in float32, and stores 8 bits rounded and saturated: so integers must be converted
    to float where they are read, and a result of 8 bits must be rounded and clamped.
    ``dtypes`` are those of i0, i1, ...
    """
    for node in ex.walk(root):
        if not isinstance(node, ex.Apply) or node.op == "to_float32":
            continue
        for argument in node.arguments:
            if isinstance(argument, ex.Input) and dtypes[argument.index].is_integer:
                return Refusal(f"{node.op} of {dtypes[argument.index].value}")
    if stored in EIGHT_BITS:
        match root:
            case ex.Apply(op, (ex.Apply("clamp", (value, _, _)),)) if (
                op == f"to_{stored.value}" and _is_whole(value)
            ):
                return None
        return Refusal(f"a result in {stored.value} that is not rounded and clamped")
    return None


def _is_whole(value: ex.Expression) -> bool:
    """Whether a value is rounded; a zero point may have been added to it since."""
    match value:
        case ex.Apply("round"):
            return True
        case ex.Apply("add", (rounded, ex.Constant(zero_point))):
            return float(zero_point).is_integer() and _is_whole(rounded)
    return False


def without_rounding(root: ex.Expression, dtype: DType) -> ex.Expression:
    """The expression without what storing in 8 bits does anyway: rounding, and the clamp."""
    if dtype not in EIGHT_BITS:
        return root
    limits = np.iinfo(dtype.numpy)
    match root:
        case ex.Apply("clamp", (ex.Apply("round", (value,)), ex.Constant(low), ex.Constant(high))):
            if low <= limits.min and high >= limits.max:
                return value
            if float(low).is_integer() and float(high).is_integer():
                return ex.apply("clamp", value, low, high)
    return root


def residual_of(operand: ex.Expression) -> tuple[int, float] | None:
    """(input, c) where an operand is an input times a literal c, else None."""
    match operand:
        case ex.Input(index):
            return index, 1.0
        case ex.Apply("to_float32", (inner,)):
            return residual_of(inner)
        case ex.Apply("mul", (inner, ex.Constant(factor))) if factor:
            found = residual_of(inner)
            return None if found is None else (found[0], found[1] * float(factor))
    return None


def with_stored_residuals(links: Links) -> Links:
    """The links with scaled addends read as they are stored: x + c r = c (x / c + r)."""
    result: list[Link] = []
    for link in links:
        operand = link.operand
        found = None if operand is None else residual_of(operand)
        if found is None or link.algorithm is not Algorithm.add:
            result.append(link)
            continue
        index, factor = found
        addition = Link(Algorithm.add, operand=ex.Input(index))
        if factor == 1.0:
            result.append(addition)
            continue
        result += [
            Link(Algorithm.linear, 1 / factor), addition, Link(Algorithm.linear, factor),
        ]
    return tuple(result)


@dataclass(frozen=True)
class Start:
    """acc * scale + bias, what a primitive does before its post-ops, as inputs and factors.

    An input of None stands for 1 as a scale and for 0 as a bias.
    """

    scale: int | None = None
    scale_factor: float = 1.0
    bias: int | None = None
    bias_factor: float = 1.0

    @property
    def has_scale(self) -> bool:
        """Whether the accumulator is scaled."""
        return self.scale is not None or self.scale_factor != 1.0

    def times(self, factor: float) -> Start:
        """All of it times a number."""
        return replace(
            self, scale_factor=self.scale_factor * factor, bias_factor=self.bias_factor * factor
        )


def take_start(links: Links, per_channel: Container[int]) -> tuple[Start, Links]:
    """Scales and bias at the front of a chain, and the other links.

    ``per_channel`` are the inputs that are constants with one number per output channel.
    """
    start = Start()
    for position, link in enumerate(links):
        operand = link.operand
        index = operand.index if isinstance(operand, ex.Input) else None
        is_constant = index is not None and index in per_channel
        if link.algorithm is Algorithm.linear and not link.beta:
            start = start.times(link.alpha)
        elif is_constant and link.algorithm is Algorithm.mul and start.scale == start.bias:
            start = replace(start, scale=index)
        elif is_constant and link.algorithm is Algorithm.add and start.bias is None:
            start = replace(start, bias=index, bias_factor=1.0)
        else:
            return start, links[position:]
    return start, ()


def scale_memory(builder: StepBuilder, start: Start, index: int | None) -> Memory:
    """The scale of the accumulator, [k] or [1]; ``index`` is its input in the layer's spec."""
    if index is None:
        desc = MemoryDesc.plain((1,), DataType.f32)
        value = np.array([start.scale_factor], np.float32)
        return builder.literal(("scale", repr(start.scale_factor)), value, desc)
    return times_factor(builder, index, start.scale_factor)


def times_factor(
    builder: StepBuilder, index: int, factor: float, dims: tuple[int, ...] | None = None
) -> Memory:
    """Constant input ``index``, one number per channel, times a factor, as f32.

    It is float32 already unless the factor is 1.
    """
    count = builder.spec.inputs[index].element_count
    desc = MemoryDesc.plain(dims if dims is not None else (count,), DataType.f32)
    if factor == 1.0:
        return builder.constant(index, desc)

    def view(array: Array) -> Array:
        return array.astype(np.float32) * np.float32(factor)

    return builder.constant(index, desc, view, f"times {factor!r}")
