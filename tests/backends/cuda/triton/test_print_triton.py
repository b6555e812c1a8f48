from __future__ import annotations

import ast

import pytest

from torch2rt.backends.cuda.triton.print_triton import print_epilogue, refusal_reason
from torch2rt.expression import parse_expression

PARAMETERS = ("acc", "i1", "i2", "i3")


def body(text: str) -> list[str]:
    printed = print_epilogue(parse_expression(text), PARAMETERS)
    ast.parse(printed)
    return [line.strip() for line in printed.split("i3):\n")[1].splitlines()]


def test_no_epilogue_returns_the_accumulator() -> None:
    assert print_epilogue(None, PARAMETERS).endswith("    return acc\n")


def test_bias_residual_and_relu() -> None:
    assert body("relu(add(add(i0,i1),i2))") == [
        "t0 = (acc + i1)",
        "t1 = (t0 + i2)",
        "t2 = tl.maximum(t1, 0.0, propagate_nan=tl.PropagateNan.ALL)",
        "return t2",
    ]


def test_equal_parts_are_computed_once() -> None:
    assert body("mul(sigmoid(add(i0,i1)),add(i0,i1))") == [
        "t0 = (acc + i1)", "t1 = (1.0 / (1.0 + tl.exp(-t0)))", "t2 = (t1 * t0)", "return t2",
    ]


@pytest.mark.parametrize(("text", "literal"), [
    ("mul(i0,-2)", "(acc * (-2.0))"), ("mul(i0,inf)", '(acc * float("inf"))'),
    ("mul(i0,True)", "(acc * 1.0)"),
])
def test_literals(text: str, literal: str) -> None:
    assert body(text)[0] == f"t0 = {literal}"


@pytest.mark.parametrize(("text", "reason"), [
    ("bitwise_and(i0,3)", "an epilogue with bitwise_and"),
    ("to_int64(i0)", "an epilogue with to_int64"),
    ("add(i0,sqrt(2.0))", r"part sqrt\(2.0\) has no input"),
    ("relu(i1)", "does not read the result"),
])
def test_refusals(text: str, reason: str) -> None:
    found = refusal_reason(parse_expression(text))
    assert found is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)


def test_what_is_printable_is_not_refused() -> None:
    assert refusal_reason(None) is None
    assert refusal_reason(parse_expression("gelu(add(i0,i1))")) is None


def test_a_sum_of_truth_values_is_a_truth_value() -> None:
    assert body("add(gt(i0,i1),isnan(i0))")[-2:] == [
        "t2 = ((t0 != 0.0) | (t1 != 0.0)).to(tl.float32)", "return t2",
    ]
    assert body("add(gt(i0,i1),i1)")[-2] == "t1 = (t0 + i1)"
