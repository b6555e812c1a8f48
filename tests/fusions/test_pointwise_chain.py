"""Chains of pointwise layers."""

import pytest
from fusion_testing import check_fires, check_refused, pointwise

from torch2rt.fusions.pointwise_chain import FusePointwiseChain

HEAD = (
    "input %x: float32[2,4]\ninput %z: float32[2,4]\ninput %n: int64[2,4]\n"
    "input %c: float32[4]\n"
)
F = "float32[2,4]"


def test_a_chain_and_a_shared_operand() -> None:
    source = (
        HEAD + pointwise("a", "%x, %c", "add(i0,i1)", F) + pointwise("b", "%a, %x", "mul(i0,i1)", F)
        + pointwise("d", "%z, %b", "max(i0,relu(i1))", F) + "output y = %d\n"
    )
    want = "pointwise(%z, %x, %c)"
    check_fires(FusePointwiseChain(), source, lines=[want, "max(i0,relu(mul(add(i1,i2),i1)))"])


def test_two_producers() -> None:
    source = (
        HEAD + pointwise("a", "%x", "exp(i0)", F) + pointwise("b", "%z", "sigmoid(i0)", F)
        + pointwise("d", "%a, %b", "mul(i0,i1)", F) + "output y = %d\n"
    )
    check_fires(FusePointwiseChain(), source, lines=["mul(exp(i0),sigmoid(i1))"])


@pytest.mark.parametrize(
    ("expression", "stored", "want"),
    [
        ("add(i0,1)", "float32", "relu(to_float32(add(i0,1)))"),
        ("add(i0,1)", "int8", "relu(to_int8(add(i0,1)))"),
        ("gt(i0,0)", "float32", "relu(to_float32(gt(i0,0)))"),
        ("div(i0,2)", "float32", "relu(div(i0,2))"),
    ],
)
def test_casts_between_stay(expression: str, stored: str, want: str) -> None:
    type = f"{stored}[2,4]"
    source = (
        HEAD + pointwise("a", "%n", expression, type)
        + pointwise("b", "%a", "relu(i0)", type) + "output y = %b\n"
    )
    check_fires(FusePointwiseChain(), source, kinds=["pointwise"], lines=[want])


def test_rounding_to_16_bits_between_is_left_out() -> None:
    source = (
        "input %x: bfloat16[2,4]\n" + pointwise("a", "%x", "exp(i0)", "bfloat16[2,4]")
        + pointwise("b", "%a", "relu(i0)", "bfloat16[2,4]") + "output y = %b\n"
    )
    check_fires(FusePointwiseChain(), source, kinds=["pointwise"], lines=["relu(exp(i0))"])


def test_an_operand_that_only_gives_the_shape_stays() -> None:
    source = (
        "input %c: float32[4]\ninput %x: float32[2,4]\n"
        + pointwise("a", "%c, %x", "exp(i0)", F) + pointwise("b", "%a", "relu(i0)", F)
        + "output y = %b\n"
    )
    check_fires(FusePointwiseChain(), source, kinds=["pointwise"])


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (pointwise("b", "%a", "relu(i0)", F) + "output y = %b\noutput z = %a\n", "other readers"),
        (pointwise("b", "%a", "relu(i0)", F) + '%d = reshape(%a) {"shape":[8]} -> float32[8]\n'
         "output y = %b\noutput z = %d\n", "other readers"),
        (pointwise("b", "%a, %big", "add(i0,i1)", "float32[3,2,4]") + "output y = %b\n",
         "broadcast"),
    ],
)
def test_refusals(tail: str, reason: str) -> None:
    head = HEAD + "input %big: float32[3,2,4]\n"
    source = head + pointwise("a", "%x, %c", "add(i0,i1)", F) + tail
    check_refused(FusePointwiseChain(), source, reason=reason)


def test_an_expression_does_not_grow_without_bound() -> None:
    expression = "i0"
    for _ in range(40):
        expression = f"exp({expression})"
    source = (
        HEAD + pointwise("a", "%x", expression, F) + pointwise("b", "%a", expression, F)
        + "output y = %b\n"
    )
    check_refused(FusePointwiseChain(), source, reason="terms")
