"""Rules of arithmetic, comparisons, logic, selection and conversions: each one pointwise layer.

Type promotion is spelled out: every operand is converted to the dtype torch computes in, Python
numbers become literals of that dtype, so that the dtype of an expression needs no promotion.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from torch2rt import expression as ex
from torch2rt.layers.fill import Fill
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import promote
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import SymbolicDim
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering

Operand: TypeAlias = "Tensor | SymbolicDim | float | int | bool"

# ATen name -> op of the expression table, where both differ.
_UNARY_ALIASES = {
    "negative": "neg", "absolute": "abs", "fix": "trunc", "special_expit": "sigmoid",
    "special_erf": "erf", "sgn": "sign", "arctan": "atan", "arcsin": "asin", "arccos": "acos",
}
_UNARY = (
    "abs", "neg", "sign", "floor", "ceil", "round", "trunc", "exp", "exp2", "expm1", "log",
    "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "square", "sin", "cos", "tan",
    "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "relu", "sigmoid",
    "tanh", "silu", "mish", "hardswish", "hardsigmoid", "bitwise_not",
)
_ADDITIVE = {"add": "add", "sub": "sub", "subtract": "sub"}
_BINARY = {
    "mul.Tensor": "mul", "mul.Scalar": "mul", "multiply.Tensor": "mul", "multiply.Scalar": "mul",
    "remainder.Tensor": "remainder", "remainder.Scalar": "remainder",
    "remainder.Scalar_Tensor": "remainder", "fmod.Tensor": "fmod", "fmod.Scalar": "fmod",
    "floor_divide.default": "floordiv", "floor_divide.Scalar": "floordiv",
    "maximum.default": "max", "max.other": "max", "minimum.default": "min", "min.other": "min",
    "atan2.default": "atan2", "arctan2.default": "atan2",
    **{
        f"{name}.{overload}": op
        for op, names in {
            "bitwise_and": ("bitwise_and", "__and__"),
            "bitwise_or": ("bitwise_or", "__or__"),
            "bitwise_xor": ("bitwise_xor", "__xor__"),
        }.items()
        for name in names
        for overload in ("Tensor", "Scalar", "Scalar_Tensor")
    },
}
_COMPARISONS = {
    "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
    "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
}
_LARGEST = {
    DType.FLOAT64: 1.7976931348623157e308, DType.FLOAT32: 3.4028234663852886e38,
    DType.BFLOAT16: 3.3895313892515355e38, DType.FLOAT16: 65504.0,
}


class Operands:
    """Collects the operands of one pointwise layer; a tensor read twice is one input."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering
        self._tensors: list[Tensor] = []

    def read(self, operand: Operand, dtype: DType | None = None) -> ex.Expression:
        """The operand as a term, converted to ``dtype`` if given."""
        if isinstance(operand, SymbolicDim):
            operand = self._lowering.add(Fill((), operand, DType.INT64))
        if not isinstance(operand, Tensor):
            return ex.Constant(operand if dtype is None else literal(operand, dtype))
        if operand not in self._tensors:
            self._tensors.append(operand)
        term = ex.Input(self._tensors.index(operand))
        return term if dtype in (None, operand.dtype) else ex.cast(dtype, term)

    def add_layer(self, expression: ex.Expression, dtype: DType | None = None) -> Tensor:
        """Add the layer; its result is of ``dtype``, by default the node's."""
        return self._lowering.expression(expression, *self._tensors, dtype=dtype)


def literal(value: float | int | bool, dtype: DType) -> float | int | bool:
    """A Python number as a literal of a dtype."""
    if dtype.is_float:
        return float(value)
    return int(value) if dtype.is_integer else bool(value)


def promote_operands(*operands: Operand) -> DType:
    """The dtype torch computes in for tensors and Python numbers together."""
    types = [operand.type for operand in operands if isinstance(operand, Tensor)]
    result = promote(*types)
    for operand in operands:
        if isinstance(operand, float) and not result.is_float:
            return DType.FLOAT32
        if isinstance(operand, int | SymbolicDim) and not isinstance(operand, bool):
            result = DType.INT64 if result is DType.BOOL else result
    return result


def apply_op(
    lowering: Lowering, op: str, *operands: Operand, compute: DType | None = None
) -> Tensor:
    """Add ``op(operands)`` computed in ``compute``, by default the dtype of the node."""
    values = Operands(lowering)
    dtype = compute or lowering.output_type.dtype
    return values.add_layer(ex.apply(op, *(values.read(operand, dtype) for operand in operands)))


def _register_tables() -> None:
    for op in _UNARY:
        _register_unary(f"aten.{op}.default", op)
    for name, op in _UNARY_ALIASES.items():
        _register_unary(f"aten.{name}.default", op)
    for overload, op in _BINARY.items():
        _register_binary(f"aten.{overload}", op)
    for name, op in _ADDITIVE.items():
        _register_additive((f"aten.{name}.Tensor", f"aten.{name}.Scalar"), op)
    for name, op in _COMPARISONS.items():
        _register_comparison((f"aten.{name}.Tensor", f"aten.{name}.Scalar"), op)
    for op in ("logical_and", "logical_or", "logical_xor"):
        _register_logical(f"aten.{op}.default", op)


def _register_unary(overload: str, op: str) -> None:
    @rule(overload)
    def lower_unary(lowering: Lowering, input: Tensor) -> Tensor:
        return apply_op(lowering, op, input)


def _register_binary(overload: str, op: str) -> None:
    @rule(overload)
    def lower_binary(lowering: Lowering, input: Operand, other: Operand) -> Tensor:
        return apply_op(lowering, op, input, other)


def _register_additive(overloads: tuple[str, ...], op: str) -> None:
    @rule(*overloads)
    def lower_additive(
        lowering: Lowering, input: Operand, other: Operand, alpha: float | int
    ) -> Tensor:
        return add_scaled(lowering, op, input, other, alpha)


def _register_comparison(overloads: tuple[str, ...], op: str) -> None:
    @rule(*overloads)
    def lower_comparison(lowering: Lowering, input: Tensor, other: Operand) -> Tensor:
        return apply_op(lowering, op, input, other, compute=promote_operands(input, other))


def _register_logical(overload: str, op: str) -> None:
    @rule(overload)
    def lower_logical(lowering: Lowering, input: Tensor, other: Tensor) -> Tensor:
        return apply_op(lowering, op, input, other, compute=DType.BOOL)


_register_tables()


def add_scaled(
    lowering: Lowering, op: str, left: Operand, right: Operand, alpha: float | int
) -> Tensor:
    """``left op alpha * right``."""
    values = Operands(lowering)
    dtype = lowering.output_type.dtype
    term = values.read(left, dtype)
    scaled = values.read(right, dtype)
    if alpha != 1:
        scaled = ex.apply("mul", scaled, literal(alpha, dtype))
    return values.add_layer(ex.apply(op, term, scaled))


@rule("aten.rsub.Tensor", "aten.rsub.Scalar")
def lower_rsub(
    lowering: Lowering, input: Tensor, other: Operand, alpha: float | int
) -> Tensor:
    """Other - alpha * input."""
    return add_scaled(lowering, "sub", other, input, alpha)


@rule(
    "aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode",
    "aten.true_divide.Tensor", "aten.true_divide.Scalar", "aten.divide.Tensor",
    "aten.divide.Scalar", "aten.divide.Tensor_mode", "aten.divide.Scalar_mode",
)
def lower_div(
    lowering: Lowering, input: Tensor, other: Operand, rounding_mode: str | None = None
) -> Tensor:
    """Division: true, or rounded down (``"floor"``) or towards zero (``"trunc"``)."""
    ops = {None: "div", "floor": "floordiv", "trunc": "truncdiv"}
    return apply_op(lowering, ops[rounding_mode], input, other)


@rule("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar")
def lower_pow(lowering: Lowering, input: Operand, exponent: Operand) -> Tensor:
    """Powers; the common constant exponents become cheaper ops, as in torch."""
    cheap = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}
    if isinstance(input, Tensor) and isinstance(exponent, float | int):
        if exponent == 1:
            return lowering.cast(input, lowering.output_type.dtype)
        if exponent in cheap:
            return apply_op(lowering, cheap[exponent], input)
        if exponent == 3:
            values = Operands(lowering)
            x = values.read(input, lowering.output_type.dtype)
            return values.add_layer(ex.apply("mul", ex.apply("square", x), x))
    return apply_op(lowering, "pow", input, exponent)


@rule("aten.isnan.default")
def lower_isnan(lowering: Lowering, input: Tensor) -> Tensor:
    """Whether an element is not a number."""
    return apply_op(lowering, "isnan", input, compute=input.dtype)


@rule("aten.isinf.default")
def lower_isinf(lowering: Lowering, input: Tensor) -> Tensor:
    """Whether an element is plus or minus infinity."""
    return apply_op(lowering, "isinf", input, compute=input.dtype)


@rule("aten.isfinite.default")
def lower_isfinite(lowering: Lowering, input: Tensor) -> Tensor:
    """Neither infinite nor not a number."""
    values = Operands(lowering)
    x = values.read(input)
    odd = ex.apply("logical_or", ex.apply("isnan", x), ex.apply("isinf", x))
    return values.add_layer(ex.apply("logical_not", odd))


@rule("aten.logical_not.default")
def lower_logical_not(lowering: Lowering, input: Tensor) -> Tensor:
    """Whether an element is zero."""
    return apply_op(lowering, "logical_not", input, compute=DType.BOOL)


@rule("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def lower_where(lowering: Lowering, condition: Tensor, input: Operand, other: Operand) -> Tensor:
    """Input where the condition holds, other elsewhere."""
    return select(lowering, condition, input, other)


@rule("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def lower_masked_fill(lowering: Lowering, input: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """The value where the mask holds, the input elsewhere; the result has the input's dtype."""
    return select(lowering, mask, value, input)


def select(lowering: Lowering, condition: Tensor, yes: Operand, no: Operand) -> Tensor:
    """``yes`` where the condition holds, else ``no``, both as the dtype of the node."""
    values = Operands(lowering)
    dtype = lowering.output_type.dtype
    test = values.read(condition, DType.BOOL)
    return values.add_layer(
        ex.apply("where", test, values.read(yes, dtype), values.read(no, dtype))
    )


@rule(
    "aten.clamp.default", "aten.clamp.Tensor", "aten.clip.default", "aten.clip.Tensor",
)
def lower_clamp(
    lowering: Lowering, input: Tensor, min: Operand | None, max: Operand | None
) -> Tensor:
    """min(max(x, low), high), where a missing bound does not bind."""
    if min is None and max is None:
        raise Unsupported("a clamp without bounds")
    if max is None:
        return apply_op(lowering, "max", input, min)  # type: ignore[arg-type]
    if min is None:
        return apply_op(lowering, "min", input, max)
    return apply_op(lowering, "clamp", input, min, max)


@rule("aten.clamp_min.default", "aten.clamp_min.Tensor")
def lower_clamp_min(lowering: Lowering, input: Tensor, min: Operand) -> Tensor:
    """The larger of x and the bound."""
    return apply_op(lowering, "max", input, min)


@rule("aten.clamp_max.default", "aten.clamp_max.Tensor")
def lower_clamp_max(lowering: Lowering, input: Tensor, max: Operand) -> Tensor:
    """The smaller of x and the bound."""
    return apply_op(lowering, "min", input, max)


@rule("aten.addcmul.default")
def lower_addcmul(
    lowering: Lowering, input: Tensor, tensor1: Tensor, tensor2: Tensor, value: float | int
) -> Tensor:
    """Input + value * tensor1 * tensor2."""
    return _add_combined(lowering, "mul", input, tensor1, tensor2, value)


@rule("aten.addcdiv.default")
def lower_addcdiv(
    lowering: Lowering, input: Tensor, tensor1: Tensor, tensor2: Tensor, value: float | int
) -> Tensor:
    """Input + value * tensor1 / tensor2."""
    return _add_combined(lowering, "div", input, tensor1, tensor2, value)


def _add_combined(
    lowering: Lowering, op: str, x: Tensor, left: Tensor, right: Tensor, value: float | int
) -> Tensor:
    values = Operands(lowering)
    dtype = lowering.output_type.dtype
    base = values.read(x, dtype)
    term = values.read(left, dtype)
    if value != 1:
        term = ex.apply("mul", term, literal(value, dtype))
    return values.add_layer(ex.apply("add", base, ex.apply(op, term, values.read(right, dtype))))


@rule("aten.lerp.Scalar", "aten.lerp.Tensor")
def lower_lerp(lowering: Lowering, input: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """Input + weight * (end - input)."""
    values = Operands(lowering)
    start, stop, share = (values.read(operand) for operand in (input, end, weight))
    return values.add_layer(
        ex.apply("add", start, ex.apply("mul", share, ex.apply("sub", stop, start)))
    )


@rule("aten.nan_to_num.default")
def lower_nan_to_num(
    lowering: Lowering, input: Tensor, nan: float | None, posinf: float | None,
    neginf: float | None,
) -> Tensor:
    """Not-a-number and the infinities replaced, by default by 0 and the largest numbers."""
    if not input.dtype.is_float:
        return input
    largest = _LARGEST.get(input.dtype, math.inf)
    values = Operands(lowering)
    x = values.read(input)
    result = x
    for odd, replacement in (
        (ex.apply("eq", x, math.inf), largest if posinf is None else float(posinf)),
        (ex.apply("eq", x, -math.inf), -largest if neginf is None else float(neginf)),
        (ex.apply("isnan", x), 0.0 if nan is None else float(nan)),
    ):
        result = ex.apply("where", odd, replacement, result)
    return values.add_layer(result)


@rule("aten.logaddexp.default")
def lower_logaddexp(lowering: Lowering, input: Tensor, other: Tensor) -> Tensor:
    """log(exp(a) + exp(b)) = max + log1p(exp(-|a - b|)); equal infinities stay."""
    values = Operands(lowering)
    left, right = (values.read(operand, lowering.output_type.dtype) for operand in (input, other))
    distance = ex.apply("where", ex.apply("eq", left, right), 0.0,
                        ex.apply("abs", ex.apply("sub", left, right)))
    rest = ex.apply("log1p", ex.apply("exp", ex.apply("neg", distance)))
    return values.add_layer(ex.apply("add", ex.apply("max", left, right), rest))


@rule("aten.one_hot.default")
def lower_one_hot(lowering: Lowering, input: Tensor, num_classes: int) -> Tensor:
    """1 at the class an element names, 0 elsewhere, along a new last axis."""
    if num_classes < 0:
        raise Unsupported("a number of classes that depends on the data")
    classes = lowering.constant("one_hot.classes", torch.arange(num_classes))
    column = lowering.reshape(input, (*input.shape, 1))
    values = Operands(lowering)
    equal = ex.apply("eq", values.read(column, DType.INT64), values.read(classes))
    return values.add_layer(ex.cast(DType.INT64, equal))


@rule("aten.outer.default", "aten.ger.default")
def lower_outer(lowering: Lowering, input: Tensor, vec2: Tensor) -> Tensor:
    """Every product of an element of one vector and an element of the other."""
    return apply_op(lowering, "mul", lowering.reshape(input, (-1, 1)), vec2)
