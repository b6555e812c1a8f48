"""Activations spelled out by hand, recognised by the products they are made of.

A value is read as ``literal * factor * factor * ...``, so the order in which a model multiplies
does not matter: ``0.5 * x * (1 + erf(x / sqrt(2)))`` and ``x * (0.5 * (1 + erf(...)))`` are one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch2rt import expression as ex

_TOLERANCE = 1e-6
_TANH_SCALE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


@dataclass(frozen=True)
class Product:
    """``literal`` times the factors, sorted by text."""

    literal: float
    factors: tuple[ex.Expression, ...]

    def expression(self) -> ex.Expression:
        """The product as an expression, the literal last."""
        result, *rest = self.factors
        for factor in rest:
            result = ex.apply("mul", result, factor)
        return result if self.literal == 1 else ex.apply("mul", result, self.literal)

    def scaled(self, by: float) -> Product:
        """The product times a number; one that is 1 but for rounding becomes 1."""
        literal = self.literal * by
        return Product(1.0 if _is_close(literal, 1) else literal, self.factors)


def product(value: ex.Expression) -> Product:
    """Read a value as a product; a single factor if it is none."""
    literal, factors = _factors(value)
    return Product(literal, tuple(sorted(factors, key=lambda factor: factor.text)))


def _factors(value: ex.Expression) -> tuple[float, list[ex.Expression]]:
    match value:
        case ex.Constant(number):
            return float(number), []
        case ex.Apply("mul", (x, y)):
            (a, left), (b, right) = _factors(x), _factors(y)
            return a * b, left + right
        case ex.Apply("neg", (x,)):
            a, left = _factors(x)
            return -a, left
        case ex.Apply("square", (x,)):
            a, left = _factors(x)
            return a * a, left * 2
    return 1.0, [value]


def _is_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_TOLERANCE)


def _splits(node: ex.Apply) -> Iterator[tuple[ex.Expression, Product]]:
    """Each factor that is an op, with the product of the others."""
    whole = product(node)
    for index, factor in enumerate(whole.factors):
        if isinstance(factor, ex.Apply) and len(whole.factors) > 1:
            others = (*whole.factors[:index], *whole.factors[index + 1 :])
            yield factor, Product(whole.literal, others)


def _times(
    node: ex.Apply, name: str, literal: float, argument: Callable[[ex.Expression], Product | None]
) -> ex.Expression | None:
    """name(z) for ``literal * z * f``, where ``argument(f)`` tells z of a factor f, or None."""
    if node.op != "mul":
        return None
    for factor, others in _splits(node):
        z = argument(factor)
        if z is None or z.factors != others.factors or not z.literal:
            continue
        rest = others.literal / (z.literal * literal)
        call = ex.apply(name, z.expression())
        return call if _is_close(rest, 1) else ex.apply("mul", call, rest)
    return None


def silu(node: ex.Apply) -> ex.Expression | None:
    """Replaces x * sigmoid(x)."""

    def argument(factor: ex.Expression) -> Product | None:
        match factor:
            case ex.Apply("sigmoid", (z,)):
                return product(z)
        return None

    return _times(node, "silu", 1.0, argument)


def mish(node: ex.Apply) -> ex.Expression | None:
    """Replaces x * tanh(softplus(x))."""

    def argument(factor: ex.Expression) -> Product | None:
        match factor:
            case ex.Apply("tanh", (ex.Apply("softplus", (z,)),)):
                return product(z)
        return None

    return _times(node, "mish", 1.0, argument)


def hardswish(node: ex.Apply) -> ex.Expression | None:
    """Replaces x * relu6(x + 3) / 6, or x * hardsigmoid(x)."""

    def clamped(factor: ex.Expression) -> Product | None:
        match factor:
            case ex.Apply(
                "clamp",
                (ex.Apply("add", (z, ex.Constant(3))), ex.Constant(0), ex.Constant(6)),
            ):
                return product(z)
        return None

    def hard(factor: ex.Expression) -> Product | None:
        match factor:
            case ex.Apply("hardsigmoid", (z,)):
                return product(z)
        return None

    return _times(node, "hardswish", 1 / 6, clamped) or _times(node, "hardswish", 1.0, hard)


def gelu(node: ex.Apply) -> ex.Expression | None:
    """Replaces 0.5 * x * (1 + erf(x / sqrt(2)))."""

    def argument(factor: ex.Expression) -> Product | None:
        match factor:
            case ex.Apply("add", (ex.Apply("erf", (z,)), ex.Constant(1))):
                return product(z).scaled(math.sqrt(2))
        return None

    return _times(node, "gelu", 0.5, argument)


def gelu_tanh(node: ex.Apply) -> ex.Expression | None:
    """Replaces 0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3)))."""

    def argument(factor: ex.Expression) -> Product | None:
        match factor:
            case ex.Apply("add", (ex.Apply("tanh", (z,)), ex.Constant(1))):
                return _of_cubic(product(z).scaled(1 / _TANH_SCALE))
        return None

    return _times(node, "gelu_tanh", 0.5, argument)


def _of_cubic(value: Product) -> Product | None:
    """X for a value x + 0.044715 * x**3, or x * (1 + 0.044715 * x**2)."""
    for index, factor in enumerate(value.factors):
        match factor:
            case ex.Apply("add", (ex.Constant() | ex.Apply() | ex.Input() as a, b)):
                pass
            case _:
                continue
        rest = Product(value.literal, (*value.factors[:index], *value.factors[index + 1 :]))
        for x, cubic in ((a, b), (b, a)):
            base, found = product(x), product(cubic)
            if not rest.factors and _is_close(rest.literal, 1):
                if _is_power(found, base, 3):
                    return base
            elif isinstance(x, ex.Constant) and x.value == 1 and _is_power(found, rest, 2):
                return rest
    return None


def _is_power(value: Product, base: Product, exponent: int) -> bool:
    """Whether value = 0.044715 * base**exponent."""
    factors = tuple(sorted(base.factors * exponent, key=lambda factor: factor.text))
    return value.factors == factors and _is_close(value.literal, _CUBIC * base.literal**exponent)


def hardsigmoid(node: ex.Apply) -> ex.Expression | None:
    """Replaces relu6(x + 3) / 6, or clamp(x / 6 + 0.5, 0, 1)."""
    match node:
        case ex.Apply(
            "mul",
            (
                ex.Apply(
                    "clamp",
                    (ex.Apply("add", (x, ex.Constant(3))), ex.Constant(0), ex.Constant(6)),
                ),
                ex.Constant(c),
            ),
        ) if _is_close(c, 1 / 6):
            return ex.apply("hardsigmoid", x)
        case ex.Apply(
            "clamp",
            (
                ex.Apply("add", (ex.Apply("mul", (x, ex.Constant(c))), ex.Constant(0.5))),
                ex.Constant(0),
                ex.Constant(1),
            ),
        ) if _is_close(c, 1 / 6):
            return ex.apply("hardsigmoid", x)
    return None


def sigmoid(node: ex.Apply) -> ex.Expression | None:
    """Replaces 1 / (1 + exp(-x))."""
    match node:
        case ex.Apply("reciprocal", (ex.Apply("add", (ex.Apply("exp", (z,)), ex.Constant(1))),)):
            value = product(z).scaled(-1)
            return ex.apply("sigmoid", value.expression()) if z.arguments else None
    return None


def softplus(node: ex.Apply) -> ex.Expression | None:
    """Replaces log(1 + exp(x))."""
    match node:
        case ex.Apply("log", (ex.Apply("add", (ex.Apply("exp", (x,)), ex.Constant(1))),)):
            return ex.apply("softplus", x)
        case ex.Apply("log1p", (ex.Apply("exp", (x,)),)):
            return ex.apply("softplus", x)
    return None


def leaky_relu(node: ex.Apply) -> ex.Expression | None:
    """Replaces where(x > 0, x, x * slope), or max(x, x * slope) for a slope in 0..1."""
    match node:
        case ex.Apply(
            "where",
            (
                ex.Apply("gt" | "ge", (x, ex.Constant(0))),
                y,
                ex.Apply("mul", (z, ex.Constant(slope))),
            ),
        ) if x == y == z:
            return ex.apply("leaky_relu", x, float(slope))
        case ex.Apply("max", (x, ex.Apply("mul", (y, ex.Constant(slope))))) | ex.Apply(
            "max", (ex.Apply("mul", (y, ex.Constant(slope))), x)
        ) if x == y and 0 <= slope <= 1:
            return ex.apply("leaky_relu", x, float(slope))
    return None


ACTIVATION_RULES = (
    sigmoid, silu, softplus, mish, hardsigmoid, hardswish, gelu, gelu_tanh, leaky_relu,
)
