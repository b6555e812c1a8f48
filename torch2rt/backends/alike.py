"""Texts of expressions and kinds that are equal where layers take the same time.

What quantized layers multiply by is a number of its own in each of them: twelve alike blocks would
be compiled, checked and timed twelve times. So factors are written as ``#``, with their sign; 0, 1
and -1, which code may leave out, and all other numbers stay what they are.
"""

from __future__ import annotations

import math

from torch2rt import expression as ex
from torch2rt.layers.attention import Attention
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.registry import Json, attributes_to_json
from torch2rt.network.layer import LayerKind


def alike_text(expression: ex.Expression) -> str:
    """``clamp(mul(i0,#),-448.0,448.0)`` of an expression with 31.7 in that place."""
    if not isinstance(expression, ex.Apply):
        return expression.text
    arguments = [
        _factor(argument) if expression.op == "mul" else alike_text(argument)
        for argument in expression.arguments
    ]
    return f"{expression.op}({','.join(arguments)})"


def alike_attributes(kind: LayerKind) -> dict[str, Json]:
    """The attributes of a kind, its factors as those of expressions."""
    attributes = attributes_to_json(kind)
    match kind:
        case Pointwise(expression=expression):
            attributes["expression"] = alike_text(expression)
        case Attention(scale=scale):
            attributes["scale"] = _factor(ex.Constant(scale))
    return attributes


def _factor(expression: ex.Expression) -> str:
    if not isinstance(expression, ex.Constant):
        return alike_text(expression)
    number = float(expression.value)
    if isinstance(expression.value, bool) or not math.isfinite(number) or abs(number) in (0.0, 1.0):
        return expression.text
    return "-#" if number < 0 else "#"
