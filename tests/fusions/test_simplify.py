"""Simplified pointwise layers and epilogues: constants folded, operands dropped."""

import numpy as np
import pytest
from fusion_testing import check_fires, check_refused, convolution, pointwise

from torch2rt.fusions.simplify_epilogue import SimplifyEpilogue
from torch2rt.fusions.simplify_pointwise import SimplifyPointwise

F = "float32[2,4,3]"
HEAD = (
    "input %x: float32[2,4,3]\ninput %z: float32[2,4,3]\ninput %n: int64[2,4,3]\n"
    "constant @s: float32[4,1]\nconstant @t: float32[4,1]\nconstant @u: float32[4,1]\n"
    "constant @one: float32[1]\nconstant @zero_point: int32[1,1]\n"
    "constant @k: float32[]\nconstant @row: float32[3]\n"
)


@pytest.mark.parametrize(
    ("inputs", "expression", "want"),
    [
        ("%x, @k", "mul(i0,i1)", "mul(i0,"),
        ("%x, @s, @t, @u", "mul(add(mul(i0,i1),i2),i3)", '"add(mul(i0,i1),i2)"'),
        ("%x, @s, @t", "add(add(i0,i1),i2)", '"add(i0,i1)"'),
        ("%x, @s", "sub(i0,i1)", '"add(i0,i1)"'),
        ("%x, @s", "div(i0,i1)", '"mul(i0,i1)"'),
        ("%x, @s", "add(i1,i0)", '"add(i0,i1)"'),
        ("%x, @s, @t", "mul(i0,rsqrt(add(square(i1),square(i2))))", '"mul(i0,i1)"'),
        ("%x, @s, @s", "mul(i0,add(i1,i2))", '"mul(i0,i1)"'),
        ("%x, %z", "mul(i0,sigmoid(i0))", '"silu(i0)"'),
        ("%x, %z, %x", "add(i0,i2)", '"add(i0,i0)"'),
        ("%z, %x", "sub(i1,i0)", '"sub(i0,i1)"'),
        ("%x, @s", "neg(mul(neg(i0),i1))", '"mul(i0,i1)"'),
        ("%n, @one", "mul(i0,i1)", "mul(i0,"),
        ("%x, @zero_point", "add(round(i0),to_float32(i1))", '"add(round(i0),61.0)"'),
    ],
)
def test_pointwise(inputs: str, expression: str, want: str) -> None:
    source = HEAD + pointwise("y", inputs, expression, F) + "output y = %y\n"
    constants = {"zero_point": np.full((1, 1), 61, np.int32)} if "@zero_point" in inputs else None
    check_fires(
        SimplifyPointwise(), source, kinds=["pointwise"], lines=[want], constants=constants
    )


@pytest.mark.parametrize(
    ("inputs", "expression"),
    [
        ("%x, @s, @t", "mul(add(i0,i1),i2)"),
        ("%x, @s", "sub(1.0,mul(i0,i1))"),
        ("%x", "neg(i0)"),
        ("%n", "mul(i0,1.0)"),
        ("%n, @zero_point", "add(i0,i1)"),
        ("%x, @s, @row", "mul(relu(mul(add(i0,i1),2.0)),i2)"),
        ("%x, @s, @row", "add(add(i0,i1),i2)"),
    ],
)
def test_pointwise_left_alone(inputs: str, expression: str) -> None:
    source = HEAD + pointwise("y", inputs, expression, F) + "output y = %y\n"
    check_refused(SimplifyPointwise(), source, reason="")


def test_infinite_constants_are_not_multiplied_out() -> None:
    source = HEAD + pointwise("y", "%x, @s, @t", "add(mul(add(i0,i1),0.0),i2)", F) + "output y = %y"
    constants = {"s": np.full((4, 1), np.inf, np.float32)}
    check_refused(SimplifyPointwise(), source, reason="", constants=constants)


def test_an_operand_that_gives_the_shape_stays() -> None:
    source = (
        "input %c: float32[3]\ninput %x: float32[2,3]\n"
        + pointwise("y", "%x, %c", "add(i1,0.0)", "float32[2,3]") + "output y = %y\n"
    )
    network = check_fires(SimplifyPointwise(), source, kinds=["pointwise"])
    assert [tensor.name for tensor in network.layers[0].inputs] == ["c", "x"]


CONV = "input %x: float32[2,3,5,5]\ninput %r: float32[2,4,3,3]\nconstant @w: float32[4,3,3,3]\n" + (
    "".join(f"constant @{name}: float32[4,1,1]\n" for name in "bst")
)
Y = "float32[2,4,3,3]"


@pytest.mark.parametrize(
    ("inputs", "epilogue", "want"),
    [
        ("@b, @s, @t", "relu(add(mul(add(i0,i1),i2),i3))", "epilogue relu(add(mul(i0,i1),i2)) "),
        ("@b, @s", "mul(add(i0,i1),i2)", "epilogue add(mul(i0,i1),i2) "),
        ("%r, @b", "relu(add(i1,add(i0,i2)))", "epilogue relu(add(add(i0,i1),i2)) "),
        ("%r, @b", "add(add(i0,i1),i2)", "epilogue add(add(i0,i1),i2) "),
        ("%r", "mul(i1,i0)", "epilogue mul(i0,i1) "),
        ("%r", "add(mul(i0,1.0),mul(i1,1.0))", "epilogue add(i0,i1) "),
    ],
)
def test_epilogue(inputs: str, epilogue: str, want: str) -> None:
    source = CONV + convolution("y", f"%x, @w, {inputs}", Y, epilogue=epilogue) + "output y = %y\n"
    network = check_fires(SimplifyEpilogue(), source, kinds=["convolution"], lines=[want])
    if inputs == "%r, @b" and "i2" in want:
        assert network.layers[0].epilogue_inputs[0].name == "b"


def test_an_epilogue_that_does_nothing_goes_away() -> None:
    source = CONV + convolution("y", "%x, @w", Y, epilogue="add(i0,0.0)") + "output y = %y\n"
    network = check_fires(SimplifyEpilogue(), source)
    assert network.layers[0].epilogue is None


def test_without_constant_weights_a_scale_stays_behind() -> None:
    source = CONV + "input %v: float32[4,3,3,3]\n" + convolution(
        "y", "%x, %v, @b, @s", Y, epilogue="mul(add(i0,i1),i2)"
    ) + "output y = %y\n"
    check_refused(SimplifyEpilogue(), source, reason="")
