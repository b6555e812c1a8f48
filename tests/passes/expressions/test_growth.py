"""Growth: the power to which an expression raises an input."""

import math

import pytest

from torch2rt.expression import parse_expression
from torch2rt.passes.expressions.growth import growth


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i0", 1), ("1.0", 0), ("mul(i0,i0)", 2), ("mul(i0,i1)", 1), ("square(sqrt(i0))", 1),
        ("mul(i0,sigmoid(i0))", 1), ("silu(i0)", 1), ("exp(i0)", math.inf), ("tanh(exp(i0))", 0),
        ("pow(i0,3)", 3), ("pow(i0,-1)", 0), ("pow(2.0,i0)", math.inf), ("exp(tanh(i0))", 0),
        ("mul(i0,rsqrt(add(i1,1e-05)))", 1), ("clamp(mul(i0,i0),0.0,6.0)", 0),
        ("clamp(i0,0.0,inf)", 1), ("where(gt(i0,0.0),i0,mul(i1,i1))", 2), ("div(i0,i1)", 1),
        ("add(mul(i0,i0),i1)", 2), ("leaky_relu(i0,0.1)", 1),
    ],
)
def test_growth(text, expected):
    assert growth(parse_expression(text)) == expected
