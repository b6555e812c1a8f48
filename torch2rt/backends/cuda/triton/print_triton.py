"""Expressions printed as Triton: an epilogue in float32, each sub-expression computed once.

Truth values are floats, 1 and 0. NaN goes through maxima and minima, as in torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch2rt import expression as ex
from torch2rt.backends.cuda.rounding import (
    integer_arithmetic,
    is_never_negative,
    rounded_bytes,
)
from torch2rt.network.dtype import DType

_IMPORTS = """
import triton
import triton.language as tl
from triton.language.extra import libdevice

from torch2rt.kernels.triton.common import round_int8, small_to_float
"""

_Print = Callable[..., str]


def _call(function: str) -> _Print:
    return lambda *arguments: f"{function}({', '.join(arguments)})"


def _binary(operator: str) -> _Print:
    return lambda a, b: f"({a} {operator} {b})"


def _truth(operator: str) -> _Print:
    return lambda a, b: f"({a} {operator} {b}).to(tl.float32)"


def _logical(operator: str) -> _Print:
    return lambda a, b: f"(({a} != 0.0) {operator} ({b} != 0.0)).to(tl.float32)"


def _extreme(function: str) -> _Print:
    return lambda a, b: f"tl.{function}({a}, {b}, propagate_nan=tl.PropagateNan.ALL)"


def _sigmoid(x: str) -> str:
    return f"(1.0 / (1.0 + tl.exp(-{x})))"


def _softplus(x: str) -> str:
    return f"({_MAX(x, '0.0')} + libdevice.log1p(tl.exp(-tl.abs({x}))))"


def _clamp(x: str, low: str, high: str) -> str:
    return _MIN(_MAX(x, low), high)


def _gelu_tanh(x: str) -> str:
    return f"(0.5 * {x} * (1.0 + libdevice.tanh({x} * (0.7978845608 + 0.0356774081 * {x} * {x}))))"


def _pow(x: str, exponent: str) -> str:
    if exponent in ("2.0", "3.0"):
        return f"({' * '.join([x] * int(float(exponent)))})"
    return f"libdevice.pow({x}, {exponent})"


_MAX = _extreme("maximum")
_MIN = _extreme("minimum")

_PRINTERS: dict[str, _Print] = {
    "add": _binary("+"), "sub": _binary("-"), "mul": _binary("*"), "div": _binary("/"),
    "max": _MAX, "min": _MIN, "clamp": _clamp,
    "pow": _pow, "atan2": _call("libdevice.atan2"),
    "fmod": _call("libdevice.fmod"),
    "eq": _truth("=="), "ne": _truth("!="), "lt": _truth("<"), "le": _truth("<="),
    "gt": _truth(">"), "ge": _truth(">="),
    "logical_and": _logical("&"), "logical_or": _logical("|"), "logical_xor": _logical("^"),
    "logical_not": lambda x: f"({x} == 0.0).to(tl.float32)",
    "isnan": lambda x: f"({x} != {x}).to(tl.float32)",
    "isinf": lambda x: f'(tl.abs({x}) == float("inf")).to(tl.float32)',
    "where": lambda c, a, b: f"tl.where({c} != 0.0, {a}, {b})",
    "abs": _call("tl.abs"), "neg": lambda x: f"(-{x})",
    "sign": lambda x: f"tl.where({x} != {x}, {x}, ({x} > 0.0).to(tl.float32) - "
                      f"({x} < 0.0).to(tl.float32))",
    "floor": _call("tl.floor"), "ceil": _call("tl.ceil"),
    "round": _call("libdevice.rint"), "trunc": _call("libdevice.trunc"),
    "exp": _call("tl.exp"), "exp2": _call("tl.exp2"), "expm1": _call("libdevice.expm1"),
    "log": _call("libdevice.log"), "log2": _call("libdevice.log2"),
    "log10": _call("libdevice.log10"), "log1p": _call("libdevice.log1p"),
    "sqrt": _call("tl.sqrt_rn"), "square": lambda x: f"({x} * {x})",
    "rsqrt": lambda x: f"(1.0 / tl.sqrt_rn({x}))", "reciprocal": lambda x: f"(1.0 / {x})",
    "sin": _call("libdevice.sin"), "cos": _call("libdevice.cos"), "tan": _call("libdevice.tan"),
    "asin": _call("libdevice.asin"), "acos": _call("libdevice.acos"),
    "atan": _call("libdevice.atan"), "sinh": _call("libdevice.sinh"),
    "cosh": _call("libdevice.cosh"), "tanh": _call("libdevice.tanh"),
    "asinh": _call("libdevice.asinh"), "acosh": _call("libdevice.acosh"),
    "atanh": _call("libdevice.atanh"), "erf": _call("tl.erf"),
    "relu": lambda x: _MAX(x, "0.0"),
    "sigmoid": _sigmoid,
    "gelu": lambda x: f"(0.5 * {x} * (1.0 + tl.erf({x} * 0.7071067811865476)))",
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: f"({x} / (1.0 + tl.exp(-{x})))",
    "softplus": _softplus,
    "mish": lambda x: f"({x} * libdevice.tanh({_softplus(x)}))",
    "hardsigmoid": lambda x: f"({_clamp(f'({x} + 3.0)', '0.0', '6.0')} * 0.16666666666666666)",
    "hardswish":
        lambda x: f"({x} * {_clamp(f'({x} + 3.0)', '0.0', '6.0')} * 0.16666666666666666)",
    "leaky_relu": lambda x, slope: f"tl.where({x} > 0.0, {x}, {x} * {slope})",
    "elu": lambda x, alpha:
        f"tl.where({x} > 0.0, {x}, {alpha} * libdevice.expm1({_MIN(x, '0.0')}))",
    "to_float32": lambda x: f"{x}.to(tl.float32)",
    "to_float16": lambda x: f"{x}.to(tl.float16).to(tl.float32)",
    "to_bfloat16": lambda x: f"{x}.to(tl.bfloat16).to(tl.float32)",
}

_TRUTHS = frozenset({
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "logical_not",
    "isnan", "isinf",
})


def refusal_reason(
    expression: ex.Expression | None, out: DType = DType.FLOAT32,
    integers: frozenset[int] = frozenset(),
) -> str | None:
    """Why `print_epilogue` cannot print an expression for a result in ``out``, or None.

    ``integers`` are the inputs of integer dtypes: everything is computed in float32.
    """
    if expression is None:
        return None
    if out is DType.INT8:
        bounded = rounded_bytes(expression)
        if bounded is None:
            return "bytes that are not rounded and clamped"
        expression = bounded[0]
    for node in ex.walk(expression):
        if isinstance(node, ex.Apply) and node.op not in _PRINTERS:
            return f"an epilogue with {node.op}"
        if not isinstance(node, ex.Input) and node.arguments and ex.arity(node) == 0:
            return f"the epilogue's part {node.text} has no input"
    computed = integer_arithmetic(expression, integers)
    if computed is not None:
        return f"integers in {computed.text}"
    return None if _reads(expression, 0) else "an epilogue that does not read the result"


def print_epilogue(
    expression: ex.Expression | None, parameters: Sequence[str], *, is_small: bool = False
) -> str:
    """A Triton function ``epilogue(*parameters)`` of float32 tiles, with its imports.

    Parameter j is input j of the expression; the sum, parameter 0, may be int32, and ``is_small``
    says that it lies within 2^22 then. KeyError for what `refusal_reason` names.
    """
    lines: list[str] = []
    names: dict[ex.Expression, str] = {}

    def value(node: ex.Expression) -> str:
        if isinstance(node, ex.Input):
            return parameters[node.index]
        if isinstance(node, ex.Constant):
            return _literal(node.value)
        if node not in names:
            text = _text(node, value, is_small)
            names[node] = f"t{len(names)}"
            lines.append(f"    {names[node]} = {text}\n")
        return names[node]

    first = parameters[0]
    result = first if expression is None else value(expression)
    head = f"{_IMPORTS}\n\n@triton.jit\ndef epilogue({', '.join(parameters)}):\n"
    return head + "".join(lines) + f"    return {result}\n"


def _text(node: ex.Apply, value: Callable[[ex.Expression], str], is_small: bool) -> str:
    """A node as Triton; bytes are rounded and cut at once."""
    bounded = rounded_bytes(node)
    if bounded is not None:
        x, low, high = bounded
        if low <= 0 and is_never_negative(x):
            low = -math.inf
        return f"round_int8({value(x)}, {_literal(low)}, {_literal(high)})"
    if is_small and node == ex.Apply("to_float32", (ex.Input(0),)):
        return f"small_to_float({value(node.arguments[0])})"
    return _PRINTERS[_operation(node)](*map(value, node.arguments))


def _operation(node: ex.Apply) -> str:
    """The op to print: a sum of truth values is a truth value, as in torch."""
    is_sum_of_truths = node.op == "add" and all(_is_truth(term) for term in node.arguments)
    return "logical_or" if is_sum_of_truths else node.op


def _is_truth(node: ex.Expression) -> bool:
    """Whether it is a bool in torch; operands of an epilogue are floats."""
    if isinstance(node, ex.Constant):
        return isinstance(node.value, bool)
    if not isinstance(node, ex.Apply):
        return False
    return node.op in _TRUTHS or (
        node.op in ("add", "mul", "max", "min") and all(_is_truth(term) for term in node.arguments)
    )


def _reads(expression: ex.Expression, index: int) -> bool:
    return any(isinstance(node, ex.Input) and node.index == index for node in ex.walk(expression))


def _literal(constant: ex.Scalar) -> str:
    number = float(constant)
    if math.isfinite(number):
        return repr(number) if number >= 0 else f"({number!r})"
    return f'float("{number}")'
