"""Expressions printed as CUDA C++, for the inside of a kernel that starts with the prelude.

    print_cpp(parse_expression("relu(add(i0,i1))"), ["sum", "bias"])  ->  t2r_relu((sum + bias))

Every op of `torch2rt.expression.OPS` is there; `missing_op` tells of one that is not. Types follow
torch's promotion. Floats of 16 and 8 bits are computed with as float; ``to_float16`` rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch2rt import expression as ex
from torch2rt.backends.cuda.cpp.types import (
    cpp_convert,
    cpp_literal,
    default_dtype,
    promote,
    promote_scalar,
)
from torch2rt.backends.cuda.rounding import is_never_negative, rounded_bytes
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.network.dtype import DType


@dataclass(frozen=True, slots=True)
class Printed:
    """C++ text and the dtype of its value; ``literal`` is set for constants of the expression."""

    text: str
    dtype: DType
    literal: ex.Scalar | None = None

    def as_type(self, dtype: DType) -> str:
        """The text, converted."""
        if self.literal is not None:
            return cpp_literal(self.literal, dtype)
        return cpp_convert(self.text, self.dtype, dtype)


_Print: TypeAlias = Callable[..., Printed]


def compute_type(dtype: DType) -> str:
    """The C++ type that values of a dtype are computed with: float for smaller floats."""
    return "float" if dtype.is_low_precision else c_type(dtype)


def missing_op(expression: ex.Expression) -> str | None:
    """An op of the expression that cannot be printed, or None."""
    for node in ex.walk(expression):
        if isinstance(node, ex.Apply) and node.op not in _PRINTERS:
            return node.op
    return None


def print_cpp(
    expression: ex.Expression, inputs: Sequence[str], dtypes: Sequence[DType] | None = None,
    dtype: DType = DType.FLOAT32,
) -> str:
    """A C++ expression of type ``compute_type(dtype)``.

    Input i of the expression is ``inputs[i]``, a value of ``compute_type(dtypes[i])``; float by
    default. What occurs twice is computed once. ValueError for an op that `missing_op` names.
    """
    printer = _Printer(
        inputs, dtypes or (DType.FLOAT32,) * len(inputs), expression, is_coarse=dtype in _COARSE
    )
    result = printer.value(expression).as_type(dtype)
    if not printer.statements:
        return result
    return f"[&] {{ {' '.join(printer.statements)} return {result}; }}()"


class _Printer:
    """Prints one expression; sub-expressions that occur twice become statements."""

    def __init__(
        self, inputs: Sequence[str], dtypes: Sequence[DType], expression: ex.Expression, *,
        is_coarse: bool,
    ) -> None:
        self.is_coarse = is_coarse
        self.inputs = inputs
        self.dtypes = dtypes
        self.statements: list[str] = []
        self._made: dict[ex.Expression, Printed] = {}
        self._uses = _count_uses(expression)

    def value(self, node: ex.Expression) -> Printed:
        match node:
            case ex.Input(index=index):
                return Printed(self.inputs[index], self.dtypes[index])
            case ex.Constant(value=constant):
                return Printed("", default_dtype(constant), constant)
        if node not in self._made:
            self._made[node] = self._apply(node)
        return self._made[node]

    def _apply(self, node: ex.Apply) -> Printed:
        made = self._rounded(node) or self._called(node)
        if self._uses[node] < 2:
            return made
        name = f"t2r_{len(self.statements)}"
        self.statements.append(f"const {compute_type(made.dtype)} {name} = {made.text};")
        return Printed(name, made.dtype)

    def _called(self, node: ex.Apply) -> Printed:
        function = _COARSE_PRINTERS.get(node.op) if self.is_coarse else None
        function = function or _PRINTERS.get(node.op)
        if function is None:
            raise ValueError(f"C++ has no {node.op}")
        return function(*[self.value(argument) for argument in node.arguments])

    def _rounded(self, node: ex.Apply) -> Printed | None:
        """Floats rounded and cut to bytes at once."""
        found = rounded_bytes(node)
        if found is None:
            return None
        x, bounds = self.value(found[0]), list(found[1:])
        if x.literal is not None or x.dtype is DType.FLOAT64 or not x.dtype.is_float:
            return None
        if bounds[0] <= 0 and is_never_negative(found[0]):
            del bounds[0]
        arguments = ", ".join(cpp_literal(bound, DType.FLOAT32) for bound in bounds)
        return Printed(f"t2r_round_i8({x.text}, {arguments})", DType.INT8)


def _count_uses(expression: ex.Expression) -> Counter[ex.Expression]:
    """How many nodes use each node, equal nodes counted as one."""
    uses: Counter[ex.Expression] = Counter()
    todo = [expression]
    while todo:
        for argument in todo.pop().arguments:
            if argument not in uses:
                todo.append(argument)
            uses[argument] += 1
    return uses


# ---- Types of results ----------------------------------------------------------------------


def _common(*values: Printed) -> DType:
    """The dtype torch promotes operands to; literals count by their category only."""
    tensors = [value.dtype for value in values if value.literal is None]
    if not tensors:
        return _promote_all([value.dtype for value in values])
    dtype = _promote_all(tensors)
    for value in values:
        if value.literal is not None:
            dtype = promote_scalar(dtype, value.literal)
    return dtype


def _promote_all(dtypes: Sequence[DType]) -> DType:
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = promote(result, dtype)
    return result


def _floating(dtype: DType) -> DType:
    return dtype if dtype.is_float else DType.FLOAT32


# ---- Ops -----------------------------------------------------------------------------------


def _arithmetic(operator: str, boolean: str) -> _Print:
    """Sum and the like; booleans are combined by a logical operator, small integers wrap."""

    def show(x: Printed, y: Printed) -> Printed:
        dtype = _common(x, y)
        a, b = x.as_type(dtype), y.as_type(dtype)
        if dtype is DType.BOOL:
            return Printed(f"({a} {boolean} {b})", dtype)
        text = f"({a} {operator} {b})"
        is_small = dtype.is_integer and dtype.itemsize_bytes < 4
        return Printed(f"({c_type(dtype)}){text}" if is_small else text, dtype)

    return show


def _divide(x: Printed, y: Printed) -> Printed:
    dtype = _floating(_common(x, y))
    return Printed(f"({x.as_type(dtype)} / {y.as_type(dtype)})", dtype)


def _function(name: str, *, is_floating: bool = False) -> _Print:
    """Call of a function of operands of one type T."""

    def show(*values: Printed) -> Printed:
        dtype = _common(*values)
        if is_floating:
            dtype = _floating(dtype)
        arguments = ", ".join(value.as_type(dtype) for value in values)
        return Printed(f"{name}({arguments})", dtype)

    return show


def _typed_first(name: str, *, is_floating: bool = False) -> _Print:
    """Call of a function whose first operand alone decides the type."""

    def show(x: Printed, *rest: Printed) -> Printed:
        dtype = _floating(x.dtype) if is_floating else x.dtype
        arguments = ", ".join(value.as_type(dtype) for value in (x, *rest))
        return Printed(f"{name}({arguments})", dtype)

    return show


def _whole(name: str) -> _Print:
    """Rounding, which leaves integers alone."""

    def show(x: Printed) -> Printed:
        text = x.as_type(x.dtype)
        return Printed(f"{name}({text})" if x.dtype.is_float else text, x.dtype)

    return show


def _compare(operator: str) -> _Print:
    def show(x: Printed, y: Printed) -> Printed:
        dtype = _common(x, y)
        return Printed(f"({x.as_type(dtype)} {operator} {y.as_type(dtype)})", DType.BOOL)

    return show


def _logical(operator: str) -> _Print:
    def show(x: Printed, y: Printed) -> Printed:
        a, b = x.as_type(DType.BOOL), y.as_type(DType.BOOL)
        return Printed(f"({a} {operator} {b})", DType.BOOL)

    return show


def _bitwise(operator: str) -> _Print:
    def show(x: Printed, y: Printed) -> Printed:
        dtype = _common(x, y)
        text = f"({x.as_type(dtype)} {operator} {y.as_type(dtype)})"
        return Printed(f"({c_type(dtype)}){text}", dtype)

    return show


def _bitwise_not(x: Printed) -> Printed:
    operator = "!" if x.dtype is DType.BOOL else "~"
    return Printed(f"({c_type(x.dtype)})({operator}{x.as_type(x.dtype)})", x.dtype)


def _logical_not(x: Printed) -> Printed:
    return Printed(f"(!{x.as_type(DType.BOOL)})", DType.BOOL)


def _negate(x: Printed) -> Printed:
    text = f"(-{x.as_type(x.dtype)})"
    is_small = x.dtype.is_integer and x.dtype.itemsize_bytes < 4
    return Printed(f"({c_type(x.dtype)}){text}" if is_small else text, x.dtype)


def _where(condition: Printed, yes: Printed, no: Printed) -> Printed:
    dtype = _common(yes, no)
    text = f"({condition.as_type(DType.BOOL)} ? {yes.as_type(dtype)} : {no.as_type(dtype)})"
    return Printed(text, dtype)


def _is_not_finite(name: str) -> _Print:
    """Tests of floats: never true for integers."""

    def show(x: Printed) -> Printed:
        if not x.dtype.is_float:
            return Printed("false", DType.BOOL)
        return Printed(f"{name}({x.as_type(x.dtype)})", DType.BOOL)

    return show


_POWERS = {2.0: "t2r_square({})", 3.0: "t2r_cube({})", 4.0: "t2r_square(t2r_square({}))"}


def _power(x: Printed, exponent: Printed) -> Printed:
    dtype = _common(x, exponent)
    if exponent.literal is not None and dtype.is_float:
        form = _POWERS.get(float(exponent.literal))
        if form is not None:
            return Printed(form.format(x.as_type(dtype)), dtype)
    return Printed(f"t2r_pow({x.as_type(dtype)}, {exponent.as_type(dtype)})", dtype)


def _reciprocal(x: Printed) -> Printed:
    dtype = _floating(x.dtype)
    return Printed(f"({cpp_literal(1, dtype)} / {x.as_type(dtype)})", dtype)


def _cast(dtype: DType) -> _Print:
    def show(x: Printed) -> Printed:
        text = x.as_type(dtype)
        if dtype.is_low_precision and (x.dtype is not dtype or x.literal is not None):
            text = f"to_float(from_float<{c_type(dtype)}>({text}))"
        return Printed(text, dtype)

    return show


_MATH = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sin", "cos", "tan",
    "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf",
)
_ACTIVATIONS = (
    "sigmoid", "gelu", "gelu_tanh", "silu", "mish", "softplus", "hardswish", "hardsigmoid",
)
_PRINTERS: dict[str, _Print] = {
    "add": _arithmetic("+", "||"),
    "sub": _arithmetic("-", "!="),
    "mul": _arithmetic("*", "&&"),
    "div": _divide,
    "floordiv": _function("t2r_floordiv"),
    "truncdiv": _function("t2r_truncdiv"),
    "remainder": _function("t2r_remainder"),
    "fmod": _function("t2r_fmod"),
    "pow": _power,
    "atan2": _function("atan2", is_floating=True),
    "max": _function("nan_max"),
    "min": _function("nan_min"),
    "eq": _compare("=="),
    "ne": _compare("!="),
    "lt": _compare("<"),
    "le": _compare("<="),
    "gt": _compare(">"),
    "ge": _compare(">="),
    "logical_and": _logical("&&"),
    "logical_or": _logical("||"),
    "logical_xor": _logical("!="),
    "logical_not": _logical_not,
    "bitwise_and": _bitwise("&"),
    "bitwise_or": _bitwise("|"),
    "bitwise_xor": _bitwise("^"),
    "bitwise_not": _bitwise_not,
    "where": _where,
    "reciprocal": _reciprocal,
    "neg": _negate,
    "abs": _typed_first("t2r_abs"),
    "sign": _typed_first("t2r_sign"),
    "square": _typed_first("t2r_square"),
    "relu": _typed_first("t2r_relu"),
    "clamp": _typed_first("t2r_clamp"),
    "leaky_relu": _typed_first("t2r_leaky_relu", is_floating=True),
    "elu": _typed_first("t2r_elu", is_floating=True),
    "floor": _whole("floor"),
    "ceil": _whole("ceil"),
    "round": _whole("rint"),
    "trunc": _whole("trunc"),
    "isnan": _is_not_finite("isnan"),
    "isinf": _is_not_finite("t2r_isinf"),
}
_PRINTERS.update((name, _function(name, is_floating=True)) for name in _MATH)
_PRINTERS.update((name, _function(f"t2r_{name}", is_floating=True)) for name in _ACTIVATIONS)
_PRINTERS.update((f"to_{dtype.value}", _cast(dtype)) for dtype in DType)
# Results whose rounding hides the error of these: floats of 16 bits and fewer, and bytes.
_COARSE = frozenset({
    DType.FLOAT16, DType.BFLOAT16, DType.FLOAT8_E4M3, DType.INT8, DType.UINT8,
})
_COARSE_PRINTERS: dict[str, _Print] = {"gelu": _function("t2r_gelu_16", is_floating=True)}
