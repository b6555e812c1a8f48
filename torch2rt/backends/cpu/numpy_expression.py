"""Expressions evaluated by numpy, for any dtype: low-precision floats are computed in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from torch2rt import expression as ex
from torch2rt.network.dtype import Array, DType

Evaluate: TypeAlias = Callable[[Sequence[Any]], Any]
Convert: TypeAlias = Callable[[Array], Array]


def widen_bfloat16(bits: Array) -> Array:
    """float32 values of bfloat16 bits (uint16)."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow_bfloat16(values: Any) -> Array:
    """bfloat16 bits (uint16) of values, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).reshape(np.shape(values)).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, np.uint16(0x7FC0), rounded.astype(np.uint16))


def widening(dtype: DType) -> Convert | None:
    """How to read a stored array as numbers to compute with; None when it can be used as it is."""
    if dtype is DType.BFLOAT16:
        return widen_bfloat16
    if dtype is DType.FLOAT16:
        return lambda values: values.astype(np.float32)
    return None


def store(out: Array, value: Any, dtype: DType) -> None:
    """Write values into an array that stores ``dtype``."""
    np.copyto(out, narrow_bfloat16(value) if dtype is DType.BFLOAT16 else value, casting="unsafe")


def _erf(x: Any) -> Any:
    """Error function in float32: Abramowitz and Stegun 7.1.26, absolute error 1.5e-7."""
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = np.float32(1.061405429) * t - np.float32(1.453152027)
    series = (series * t + np.float32(1.421413741)) * t - np.float32(0.284496736)
    series = (series * t + np.float32(0.254829592)) * t
    return np.copysign(1 - series * np.exp(-size * size), x)


# Ops that numpy lacks or that need the storage of bfloat16; float32 only.
_OWN: dict[str, Callable[..., Any]] = {
    "erf": _erf,
    "gelu": lambda x: np.float32(0.5) * x * (1 + _erf(x * np.float32(math.sqrt(0.5)))),
    "to_bfloat16": lambda x: widen_bfloat16(narrow_bfloat16(x)),
}


def missing_op(expression: ex.Expression, is_double: bool) -> str | None:
    """An op of the expression that numpy cannot do, or None. ``is_double``: float64 is read."""
    for node in ex.walk(expression):
        if not isinstance(node, ex.Apply) or ex.OPS[node.op].numpy_function is not None:
            continue
        if node.op not in _OWN or is_double:
            return node.op
    return None


def compile_expression(expression: ex.Expression) -> Evaluate:
    """A function of the operands, with sub-expressions that occur twice computed once."""
    order: dict[ex.Expression, int] = {}
    program: list[tuple[Callable[..., Any], tuple[tuple[bool, Any], ...]]] = []

    def place(node: ex.Expression) -> tuple[bool, Any]:
        """(whether it is a literal, the literal or the register)."""
        if isinstance(node, ex.Constant):
            return True, node.value
        if node not in order:
            if isinstance(node, ex.Input):
                return False, node.index
            arguments = tuple(place(argument) for argument in node.arguments)
            function = _OWN.get(node.op, ex.OPS[node.op].numpy_function)
            if function is None:
                raise ValueError(f"numpy has no {node.op}")
            order[node] = inputs + len(program)
            program.append((function, arguments))
        return False, order[node]

    inputs = ex.arity(expression)
    is_literal, result = place(expression)

    def evaluate(operands: Sequence[Any]) -> Any:
        values = list(operands[:inputs])
        for function, arguments in program:
            values.append(function(*[a if literal else values[a] for literal, a in arguments]))
        return result if is_literal else values[result]

    return evaluate
