"""Expressions as chains of oneDNN post-ops.

A *chain* starts at one operand (the accumulator of a primitive) and applies one op after the
other to it. Each op becomes one or two *links*; a link is an element-wise function, or a binary
function with one more operand, which may itself be any expression that somebody computes first.

NaN: relu, clamp and max or min with a number or operand give the number or operand where x is NaN,
hardsigmoid gives 1, exp gives inf and x > y gives 1, as does oneDNN; torch keeps the NaN (and its
x > y is 0). The other functions keep NaN. Pooling and reduction by max or min skip NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch2rt import expression as ex
from torch2rt.backends.cpu.onednn import Algorithm
from torch2rt.backends.tactic import Refusal


@dataclass(frozen=True, slots=True)
class Link:
    """x -> f(x; alpha, beta), or x -> f(x, operand) where there is an operand."""

    algorithm: Algorithm
    alpha: float = 0.0
    beta: float = 0.0
    operand: ex.Expression | None = None


Links: TypeAlias = tuple[Link, ...]

LN_2 = math.log(2.0)

# Ops of one operand: x -> f(x; alpha, beta).
_UNARY: dict[str, Links] = {
    "relu": (Link(Algorithm.relu),),
    "sigmoid": (Link(Algorithm.logistic),),
    "tanh": (Link(Algorithm.tanh),),
    "gelu": (Link(Algorithm.gelu_erf),),
    "gelu_tanh": (Link(Algorithm.gelu_tanh),),
    "silu": (Link(Algorithm.swish, 1.0),),
    "mish": (Link(Algorithm.mish),),
    "softplus": (Link(Algorithm.soft_relu, 1.0),),
    "hardswish": (Link(Algorithm.hardswish, 1 / 6, 0.5),),
    "hardsigmoid": (Link(Algorithm.hardsigmoid, 1 / 6, 0.5),),
    "abs": (Link(Algorithm.abs),),
    "sqrt": (Link(Algorithm.sqrt),),
    "square": (Link(Algorithm.square),),
    "exp": (Link(Algorithm.exp),),
    "exp2": (Link(Algorithm.linear, LN_2), Link(Algorithm.exp)),
    "log": (Link(Algorithm.log),),
    "round": (Link(Algorithm.round),),
    "neg": (Link(Algorithm.linear, -1.0),),
    "rsqrt": (Link(Algorithm.pow, 1.0, -0.5),),
    "reciprocal": (Link(Algorithm.pow, 1.0, -1.0),),
    "to_float32": (),
}
_BINARY = {
    "add": Algorithm.add, "mul": Algorithm.mul, "max": Algorithm.max, "min": Algorithm.min,
    "sub": Algorithm.sub, "div": Algorithm.div, "eq": Algorithm.eq, "ne": Algorithm.ne,
    "lt": Algorithm.lt, "le": Algorithm.le, "gt": Algorithm.gt, "ge": Algorithm.ge,
}
_COMMUTATIVE = {"add", "mul", "max", "min", "eq", "ne"}
_ASSOCIATIVE = {"add", "mul"}
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def links_of(node: ex.Apply, position: int) -> Links | Refusal:
    """What an op does to its argument ``position``, the others being operands."""
    if node.op in _UNARY:
        return _UNARY[node.op]
    others = [argument for index, argument in enumerate(node.arguments) if index != position]
    numbers = [_number(argument) for argument in others]
    if position == 0 and node.op in _SCALAR and all(value is not None for value in numbers):
        return _SCALAR[node.op](*[value for value in numbers if value is not None])
    if node.op in _BINARY and len(others) == 1:
        return _binary(node.op, position, others[0], numbers[0])
    return Refusal(f"oneDNN has no {node.op} as a post-op of argument {position}")


def _binary(op: str, position: int, other: ex.Expression, number: float | None) -> Links | Refusal:
    if number is not None and op in _WITH_NUMBER:
        return _WITH_NUMBER[op](number, position)
    if op in _ASSOCIATIVE and isinstance(other, ex.Apply) and other.op == op:
        # x + (a + b) as (x + a) + b: no temporary, and a and b need not broadcast to one another.
        return tuple(
            link
            for argument in other.arguments
            for link in _links_or_none(_binary(op, position, argument, _number(argument)))
        )
    if position == 0 or op in _COMMUTATIVE:
        return (Link(_BINARY[op], operand=other),)
    if op == "sub":
        return Link(Algorithm.linear, -1.0), Link(Algorithm.add, operand=other)
    if op == "div":
        return Link(Algorithm.pow, 1.0, -1.0), Link(Algorithm.mul, operand=other)
    return (Link(_BINARY[_MIRRORED[op]], operand=other),)


def _links_or_none(links: Links | Refusal) -> Links:
    if isinstance(links, Refusal):
        raise AssertionError(f"an associative op was refused: {links.reason}")
    return links


def _number(node: ex.Expression) -> float | None:
    return float(node.value) if isinstance(node, ex.Constant) else None


def _sub(value: float, position: int) -> Links:
    sign = 1.0 if position == 0 else -1.0
    return (Link(Algorithm.linear, sign, -sign * value),)


def _div(value: float, position: int) -> Links | Refusal:
    if position == 1:
        return (Link(Algorithm.pow, value, -1.0),)
    if value == 0.0:
        return Refusal("division by the literal 0")
    return (Link(Algorithm.linear, 1.0 / value),)


def _power(exponent: float) -> Links:
    return (Link(Algorithm.square) if exponent == 2 else Link(Algorithm.pow, 1.0, exponent),)


def _elu(alpha: float) -> Links | Refusal:
    return (Link(Algorithm.elu, alpha),)


# Ops whose other operand is a literal, by the position of the accumulator.
_WITH_NUMBER: dict[str, Callable[[float, int], Links | Refusal]] = {
    "add": lambda value, _: (Link(Algorithm.linear, 1.0, value),),
    "mul": lambda value, _: (Link(Algorithm.linear, value),),
    "sub": _sub,
    "div": _div,
    "max": lambda value, _: (Link(Algorithm.clip_v2, value, math.inf),),
    "min": lambda value, _: (Link(Algorithm.clip_v2, -math.inf, value),),
}
# Ops of x and literals.
_SCALAR: dict[str, Callable[..., Links | Refusal]] = {
    "clamp": lambda low, high: (Link(Algorithm.clip_v2, low, high),),
    "leaky_relu": lambda slope: (Link(Algorithm.relu, slope),),
    "elu": _elu,
    "pow": _power,
}


@dataclass(frozen=True, slots=True)
class Chain:
    """``links`` applied to ``start``; ``nodes[i]`` is the value after ``ends[i]`` of them."""

    start: ex.Expression
    links: Links = ()
    nodes: tuple[ex.Expression, ...] = ()
    ends: tuple[int, ...] = ()

    @property
    def cost(self) -> int:
        """Number of operands that have to be computed first."""
        return sum(isinstance(link.operand, ex.Apply) for link in self.links)

    def extended(self, node: ex.Expression, links: Links) -> Chain:
        """The chain with the links of one more op."""
        together = self.links + links
        return Chain(self.start, together, (*self.nodes, node), (*self.ends, len(together)))


def chain_to(root: ex.Expression, is_start: Callable[[ex.Expression], bool]) -> Chain | Refusal:
    """The cheapest chain from a node for which ``is_start`` holds up to the root.

    Refused where there is no such node, or where every way to it has an op that is no link.
    """
    if is_start(root):
        return Chain(root)
    if not isinstance(root, ex.Apply):
        return Refusal(f"the chain may not start at {root.text}")
    reason = Refusal(f"no operand of {root.op} leads to where the chain may start")
    found: list[Chain] = []
    for position, argument in enumerate(root.arguments):
        below = chain_to(argument, is_start)
        if isinstance(below, Refusal):
            continue
        links = links_of(root, position)
        if isinstance(links, Refusal):
            reason = links
            continue
        found.append(below.extended(root, links))
    return min(found, key=lambda chain: chain.cost) if found else reason


def unsupported_op(root: ex.Expression) -> str | None:
    """An op that is no link at any of its arguments, or None."""
    for node in ex.walk(root):
        if not isinstance(node, ex.Apply):
            continue
        ways = [links_of(node, position) for position in range(len(node.arguments))]
        if all(isinstance(way, Refusal) for way in ways):
            return node.op
    return None
