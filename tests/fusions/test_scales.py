"""Scales and shifts that go into weights."""

import numpy as np
import pytest
from fusion_testing import check_fires, check_refused, convolution, network_of, pointwise

from torch2rt.fusions.scale_before_contraction import ScaleBeforeContraction
from torch2rt.fusions.scale_into_weights import ScaleIntoWeights

CONV = (
    "input %x: float32[2,4,5,5]\nconstant @w: float32[6,2,3,3]\nconstant @s: float32[6,1,1]\n"
    "constant @t: float32[6,1,1]\nconstant @row: float32[3]\ninput %v: float32[6,1,1]\n"
)
DECONV = (
    "input %x: float32[2,4,3,3]\nconstant @w: float32[4,3,2,2]\nconstant @s: float32[6,1,1]\n"
    '%y = deconvolution(%x, @w, @s) {"stride":[2,2],"padding_before":[0,0],"padding_after":[0,0],'
    '"dilation":[1,1],"groups":2} epilogue relu(mul(i0,i1)) -> float32[2,6,6,6]\noutput y = %y\n'
)
Y = "float32[2,6,3,3]"


@pytest.mark.parametrize(
    ("inputs", "epilogue", "want"),
    [
        ("@s, @t", "relu(add(mul(i0,i1),i2))", "epilogue relu(add(i0,i1)) "),
        ("@s", "mul(i0,i1)", "groups\":2} -> "),
        ("@t", "add(mul(i0,0.125),i1)", "epilogue add(i0,i1) "),
        ("@s", "mul(mul(i0,i1),sigmoid(mul(i0,i1)))", "epilogue mul(i0,sigmoid(i0)) "),
    ],
)
def test_convolution_with_groups(inputs: str, epilogue: str, want: str) -> None:
    line = convolution("y", f"%x, @w, {inputs}", Y, groups=2, epilogue=epilogue)
    check_fires(ScaleIntoWeights(), CONV + line + "output y = %y\n", lines=[want, "@w: "])


def test_deconvolution_with_groups() -> None:
    check_fires(ScaleIntoWeights(), DECONV, lines=["epilogue relu(i0) "])


@pytest.mark.parametrize("flag", ["true", "false"])
@pytest.mark.parametrize("batch", ["", "2,"])
def test_matmul(flag: str, batch: str) -> None:
    weight = "5,4" if flag == "true" else "4,5"
    source = (
        f"input %x: float32[2,3,4]\nconstant @w: float32[{batch}{weight}]\n"
        "constant @s: float32[5]\n"
        f'%y = matmul(%x, @w, @s) {{"transpose_b":{flag}}} epilogue mul(i0,i1) -> float32[2,3,5]\n'
        "output y = %y\n"
    )
    check_fires(ScaleIntoWeights(), source)


def test_a_weight_that_others_read_is_copied() -> None:
    line = convolution("y", "%x, @w, @s", Y, groups=2, epilogue="mul(i0,i1)")
    other = convolution("z", "%x, @w", Y, groups=2)
    source = CONV + line + other + "output y = %y\noutput z = %z\n"
    network = check_fires(ScaleIntoWeights(), source)
    first, second = network.layers
    assert first.inputs[1] is not second.inputs[1]
    original = network_of(source).tensor("w").data
    assert original is not None
    assert np.array_equal(second.inputs[1].data, original)


def test_a_bfloat16_weight_keeps_its_dtype() -> None:
    source = (
        "input %x: bfloat16[2,4]\nconstant @w: bfloat16[5,4]\nconstant @s: float32[5]\n"
        '%y = matmul(%x, @w, @s) {"transpose_b":true} epilogue mul(i0,i1) -> bfloat16[2,5]\n'
        "output y = %y\n"
    )
    powers = np.asarray([0.5, 2, -1, 4, 0.25], np.float32)
    check_fires(ScaleIntoWeights(), source, constants={"s": powers}, lines=["@w: bfloat16[5,4]"])


@pytest.mark.parametrize(
    ("inputs", "epilogue", "reason"),
    [
        ("@row", "mul(i0,i1)", "not one per output channel"),
        ("@s", "mul(relu(i0),i1)", ""),
        ("@s", "add(mul(i0,i1),i0)", ""),
        ("%v", "mul(i0,i1)", ""),
        ("%v", "mul(i1,i0)", ""),
    ],
)
def test_refusals(inputs: str, epilogue: str, reason: str) -> None:
    line = convolution("y", f"%x, @w, {inputs}", Y, groups=2, epilogue=epilogue)
    check_refused(ScaleIntoWeights(), CONV + line + "output y = %y\n", reason=reason)


def test_an_infinite_factor_is_refused() -> None:
    line = convolution("y", "%x, @w, @s", Y, groups=2, epilogue="mul(i0,i1)")
    constants = {"s": np.full((6, 1, 1), np.inf, np.float32)}
    check_refused(ScaleIntoWeights(), CONV + line + "output y = %y\n", reason="not finite",
                  constants=constants)


BEFORE = (
    "input %x: float32[2,4,5,5]\ninput %m: float32[2,3,4]\nconstant @w: float32[6,2,3,3]\n"
    "constant @s: float32[4,1,1]\nconstant @t: float32[4,1,1]\nconstant @row: float32[5]\n"
)
X = "float32[2,4,5,5]"


@pytest.mark.parametrize(
    ("inputs", "expression", "padding"),
    [
        ("%x, @s", "mul(i0,i1)", 1),
        ("%x", "mul(i0,0.5)", 1),
        ("%x, @s, @t", "add(mul(i0,i1),i2)", 0),
        ("%x, @t", "add(i0,i1)", 0),
    ],
)
@pytest.mark.parametrize("epilogue", ["", "relu(i0)"])
def test_before_a_convolution(inputs: str, expression: str, padding: int, epilogue: str) -> None:
    type = Y if not padding else "float32[2,6,5,5]"
    source = BEFORE + pointwise("a", inputs, expression, X) + convolution(
        "y", "%a, @w", type, padding=padding, groups=2, epilogue=epilogue
    ) + "output y = %y\n"
    check_fires(ScaleBeforeContraction(), source, kinds=["convolution"])


def test_before_a_deconvolution() -> None:
    line = DECONV.splitlines()[3].replace("%x, @w, @s", "%a, @w").partition(" epilogue")
    source = (
        "input %x: float32[2,4,3,3]\nconstant @w: float32[4,3,2,2]\nconstant @s: float32[4,1,1]\n"
        + pointwise("a", "%x, @s", "mul(i0,i1)", "float32[2,4,3,3]")
        + f"{line[0]} -> float32[2,6,6,6]\noutput y = %y\n"
    )
    check_fires(ScaleBeforeContraction(), source, kinds=["deconvolution"])


@pytest.mark.parametrize("flag", ["true", "false"])
def test_before_a_matmul(flag: str) -> None:
    weight = "5,4" if flag == "true" else "4,5"
    source = (
        f"input %x: float32[2,3,4]\nconstant @w: float32[{weight}]\nconstant @s: float32[4]\n"
        "constant @t: float32[4]\n"
        + pointwise("a", "%x, @s, @t", "add(mul(i0,i1),i2)", "float32[2,3,4]")
        + f'%y = matmul(%a, @w) {{"transpose_b":{flag}}} -> float32[2,3,5]\noutput y = %y\n'
    )
    check_fires(ScaleBeforeContraction(), source, kinds=["matmul"])


@pytest.mark.parametrize(
    ("inputs", "expression", "tail", "reason"),
    [
        ("%x, @t", "add(i0,i1)", "output y = %y\n", "padding"),
        ("%x, @s", "mul(i0,i1)", "output y = %y\noutput z = %a\n", "other readers"),
        ("%x, @row", "mul(i0,i1)", "output y = %y\n", "per input channel"),
        ("%x, %x", "mul(i0,i1)", "output y = %y\n", ""),
        ("%x, @s", "relu(mul(i0,i1))", "output y = %y\n", ""),
    ],
)
def test_refusals_before(inputs: str, expression: str, tail: str, reason: str) -> None:
    source = BEFORE + pointwise("a", inputs, expression, X) + convolution(
        "y", "%a, @w", "float32[2,6,5,5]", padding=1, groups=2
    ) + tail
    check_refused(ScaleBeforeContraction(), source, reason=reason)


def test_a_change_of_dtype_before_is_refused() -> None:
    source = BEFORE.replace("input %x: float32", "input %x: int64") + pointwise(
        "a", "%x, @s", "mul(i0,i1)", X
    ) + convolution("y", "%a, @w", Y, groups=2) + "output y = %y\n"
    check_refused(ScaleBeforeContraction(), source, reason="changes int64")
