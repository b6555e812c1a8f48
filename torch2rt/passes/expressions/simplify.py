"""Simplification of one expression: algebra that keeps its value and its dtype.

The rules are small functions of one node whose arguments are simplified already. A rewrite is
taken only if the dtype by torch's promotion stays the same, so that rules need not ask for it:
``mul(x,1.0)`` becomes ``x`` for a float ``x`` and stays for an integer one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import torch

from torch2rt import expression as ex
from torch2rt.network.dtype import DType
from torch2rt.passes.expressions.activations import ACTIVATION_RULES
from torch2rt.passes.expressions.dtypes import Operand, natural_dtype

Rule: TypeAlias = "Callable[[ex.Apply], ex.Expression | None]"

_MAX_REWRITES = 200
_COMMUTATIVE = {"add", "mul", "max", "min", "eq", "ne", "logical_and", "logical_or"}
_MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
_FLOAT_LITERALS = {"add", "sub", "mul", "div", "max", "min", "clamp", "pow", "leaky_relu", "elu"}
_NOT_NEGATIVE = {"relu", "sigmoid", "abs", "square", "exp", "softplus", "hardsigmoid", "sqrt"}
_POWERS = {0.5: "sqrt", -0.5: "rsqrt", 2: "square", -1: "reciprocal"}
_EXACT_IN_FLOAT = 1 << 24


def simplify(expression: ex.Expression, operands: Sequence[Operand]) -> ex.Expression:
    """The expression with every rule applied until none fires.

    Example: ``min(max(add(i0,0),0),6)`` on float32 is ``clamp(i0,0.0,6.0)``.
    """
    return _simplify(expression, tuple(operands))


@lru_cache(maxsize=65536)
def _simplify(expression: ex.Expression, operands: tuple[Operand, ...]) -> ex.Expression:
    if not isinstance(expression, ex.Apply):
        return expression
    arguments = tuple(_simplify(argument, operands) for argument in expression.arguments)
    node: ex.Expression = ex.Apply(expression.op, arguments)
    for _ in range(_MAX_REWRITES):
        if not isinstance(node, ex.Apply):
            return node
        rewritten = _rewrite_once(node, operands)
        if rewritten is None:
            return node
        node = rewritten
        if isinstance(node, ex.Apply):
            node = ex.Apply(node.op, tuple(_simplify(a, operands) for a in node.arguments))
    raise RuntimeError(f"simplification of {expression.text[:200]} does not end")


def _rewrite_once(node: ex.Apply, operands: tuple[Operand, ...]) -> ex.Expression | None:
    dtype = natural_dtype(node, operands)
    if dtype is None:
        return None
    if node.op == f"to_{dtype.value}" and natural_dtype(node.arguments[0], operands) == dtype:
        return node.arguments[0]
    rules = RULES + FLOAT_RULES if dtype.is_float else RULES
    for rule in rules:
        rewritten = rule(node)
        if rewritten is None or rewritten == node:
            continue
        if natural_dtype(rewritten, operands) == dtype:
            return rewritten
    return None


def fold_literals(node: ex.Apply) -> ex.Expression | None:
    """op(1.0, 2.0) = its value, computed in float64."""
    values = [a.value for a in node.arguments if isinstance(a, ex.Constant)]
    if len(values) != len(node.arguments) or node.op in ("to_float16", "to_bfloat16"):
        return None
    wide = [torch.tensor(v, dtype=torch.float64 if type(v) is float else None) for v in values]
    try:
        result = ex.OPS[node.op].torch_function(*wide).item()
    except (RuntimeError, TypeError):
        return None
    return None if result != result else ex.Constant(result)


def order_commutative(node: ex.Apply) -> ex.Expression | None:
    """op(c, x) = op(x, c); c < x = x > c."""
    if len(node.arguments) != 2:
        return None
    left, right = node.arguments
    if not isinstance(left, ex.Constant) or isinstance(right, ex.Constant):
        return None
    if node.op in _COMMUTATIVE:
        return ex.Apply(node.op, (right, left))
    if node.op in _MIRRORED:
        return ex.Apply(_MIRRORED[node.op], (right, left))
    return None


def drop_neutral(node: ex.Apply) -> ex.Expression | None:
    """By neutral elements: x + 0 = x - 0 = x * 1 = x / 1 = x ** 1 = x."""
    match node:
        case ex.Apply("add" | "sub", (x, ex.Constant(0))):
            return x
        case ex.Apply("mul" | "div" | "pow", (x, ex.Constant(1))):
            return x
        case ex.Apply("where", (_, yes, no)) if yes == no:
            return yes
        case ex.Apply("where", (ex.Constant(value), yes, no)):
            return yes if value else no
    return None


def undo_twice(node: ex.Apply) -> ex.Expression | None:
    """--x = x; op(op(x)) = op(x) for idempotent ops."""
    match node:
        case ex.Apply("neg", (ex.Apply("neg", (x,)),)):
            return x
        case ex.Apply(
            "relu" | "abs" | "floor" | "ceil" | "round" | "trunc" | "sign" as op,
            (ex.Apply(inner) as x,),
        ) if inner == op:
            return x
        case ex.Apply("relu" | "abs", (ex.Apply(inner) as x,)) if inner in _NOT_NEGATIVE:
            return x
        case ex.Apply("square", (ex.Apply("neg" | "abs", (x,)),)):
            return ex.apply("square", x)
    return None


def write_literals_as_floats(node: ex.Apply) -> ex.Expression | None:
    """So that x + 1 = x + 1.0 where x is a float."""
    if node.op not in _FLOAT_LITERALS:
        return None
    arguments = tuple(
        ex.Constant(float(a.value))
        if isinstance(a, ex.Constant) and type(a.value) is int and abs(a.value) < _EXACT_IN_FLOAT
        else a
        for a in node.arguments
    )
    return ex.Apply(node.op, arguments)


def divide_by_literal(node: ex.Apply) -> ex.Expression | None:
    """With x / c = x * (1 / c); x - c = x + (-c)."""
    match node:
        case ex.Apply("div", (x, ex.Constant(c))) if c and math.isfinite(1 / c) and 1 / c:
            return ex.apply("mul", x, 1 / c)
        case ex.Apply("sub", (x, ex.Constant(c))) if type(c) is float:
            return ex.apply("add", x, -c)
        case ex.Apply("div", (ex.Constant(1), x)):
            return ex.apply("reciprocal", x)
        case ex.Apply("reciprocal", (ex.Apply("sqrt", (x,)),)):
            return ex.apply("rsqrt", x)
        case ex.Apply("div", (x, ex.Apply("sqrt", (y,)))) if not isinstance(x, ex.Constant):
            return ex.apply("mul", x, ex.apply("rsqrt", y))
    return None


def name_powers(node: ex.Apply) -> ex.Expression | None:
    """With x ** 2 = x * x = square(x); sqrt, rsqrt, reciprocal for others."""
    match node:
        case ex.Apply("pow", (x, ex.Constant(c))) if c in _POWERS:
            return ex.apply(_POWERS[c], x)
        case ex.Apply("pow", (x, ex.Constant(3))):
            return ex.apply("mul", x, ex.apply("square", x))
        case ex.Apply("mul", (x, y)) if x == y:
            return ex.apply("square", x)
    return None


def merge_literals(node: ex.Apply) -> ex.Expression | None:
    """(x + a) + b = x + (a + b); (x * a) * b = x * (a * b); -x * a = x * -a."""
    match node:
        case ex.Apply("add", (ex.Apply("add", (x, ex.Constant(a))), ex.Constant(b))):
            return _if_finite("add", x, a + b)
        case ex.Apply("mul", (ex.Apply("mul", (x, ex.Constant(a))), ex.Constant(b))):
            return _if_finite("mul", x, a * b)
        case ex.Apply("mul", (ex.Apply("neg", (x,)), ex.Constant(b))):
            return ex.apply("mul", x, -b)
        case ex.Apply("neg", (ex.Apply("mul", (x, ex.Constant(a))),)):
            return ex.apply("mul", x, -a)
    return None


def _if_finite(op: str, x: ex.Expression, value: float) -> ex.Expression | None:
    return ex.apply(op, x, value) if math.isfinite(value) else None


def clamp_from_bounds(node: ex.Apply) -> ex.Expression | None:
    """max(x, 0) = relu(x); min(max(x, a), b) = clamp(x, a, b); a bound at infinity goes."""
    match node:
        case ex.Apply("max", (x, ex.Constant(0))):
            return ex.apply("relu", x)
        case ex.Apply("clamp", (x, ex.Constant(low), ex.Constant(high))) if high == math.inf:
            return ex.apply("max", x, low)
        case ex.Apply("clamp", (x, ex.Constant(low), ex.Constant(high))) if low == -math.inf:
            return ex.apply("min", x, high)
        case ex.Apply("max" | "min", (x, ex.Constant(c))) if abs(c) == math.inf:
            return x if (c < 0) == (node.op == "max") else None
    outer = _bounds(node)
    if outer is None or not isinstance(node.arguments[0], ex.Apply):
        return None
    inner = _bounds(node.arguments[0])
    if inner is None:
        return None
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    return ex.apply("clamp", node.arguments[0].arguments[0], low, high)


def _bounds(node: ex.Apply) -> tuple[float, float] | None:
    """(low, high) with low <= high, if the node only clamps its first argument."""
    low, high = -math.inf, math.inf
    match node:
        case ex.Apply("relu", _):
            low = 0.0
        case ex.Apply("max", (_, ex.Constant(c))):
            low = float(c)
        case ex.Apply("min", (_, ex.Constant(c))):
            high = float(c)
        case ex.Apply("clamp", (_, ex.Constant(a), ex.Constant(b))):
            low, high = float(a), float(b)
        case _:
            return None
    return (low, high) if low <= high else None


RULES: tuple[Rule, ...] = (fold_literals, order_commutative, drop_neutral, undo_twice)
FLOAT_RULES: tuple[Rule, ...] = (
    write_literals_as_floats, divide_by_literal, name_powers, merge_literals, clamp_from_bounds,
    *ACTIVATION_RULES,
)


def without_final_cast(expression: ex.Expression, stored: DType) -> ex.Expression:
    """``to_float16(e)`` stored as float16 is ``e`` stored as float16; a bare cast stays."""
    match expression:
        case ex.Apply(op, (ex.Apply() as inner,)) if op == f"to_{stored.value}":
            return inner if stored.is_float else expression
    return expression
