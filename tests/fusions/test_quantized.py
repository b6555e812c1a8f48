"""Quantize and dequantize layers that go into other layers, and those that must not."""

import numpy as np
import pytest
import torch
from fusion_testing import check_fires, check_refused, convolution, network_of, pointwise, run_twice

from torch2rt.backends.reference.executor import run_network
from torch2rt.fusions.base import Fuse
from torch2rt.fusions.dequantize_after_move import DequantizeAfterMove
from torch2rt.fusions.dequantize_into_contraction import DequantizeIntoContraction
from torch2rt.fusions.dequantize_into_expression import DequantizeIntoExpression
from torch2rt.fusions.quantization_as_pointwise import QuantizationAsPointwise
from torch2rt.fusions.remove_requantize import RemoveRequantize
from torch2rt.fusions.scale_inside_requantize import ScaleInsideRequantize
from torch2rt.passes.pipeline import optimize

GENERATOR = np.random.default_rng(3)


def stored(*shape, low=-127, high=128, dtype=np.int8):
    return GENERATOR.integers(low, high, shape).astype(dtype)


CONSTANTS = {
    "w": stored(6, 4, 3, 3),
    "sw": np.linspace(0.001, 0.02, 6, dtype=np.float32).reshape(6, 1, 1, 1),
    "s": np.array(0.05, np.float32), "z": np.array(3, np.int32), "zeros": np.zeros((), np.int32),
    "varying": np.linspace(0.01, 0.1, 4, dtype=np.float32).reshape(4, 1, 1),
    "s2": np.array(0.07, np.float32), "m": stored(5, 8), "sm": np.full((5, 1), 0.01, np.float32),
    "wz": np.array(1, np.int32), "b": np.linspace(-2, 2, 6, dtype=np.float32).reshape(6, 1, 1),
}
HEADER = (
    "input %p: int8[2,4,5,5]\ninput %q: int8[2,4,5,5]\ninput %v: int8[3,8]\ninput %f: float32[]\n"
    "constant @w: int8[6,4,3,3]\nconstant @sw: float32[6,1,1,1]\nconstant @s: float32[]\n"
    "constant @z: int32[]\nconstant @zeros: int32[]\nconstant @varying: float32[4,1,1]\n"
    "constant @s2: float32[]\nconstant @m: int8[5,8]\nconstant @sm: float32[5,1]\n"
    "constant @wz: int32[]\nconstant @b: float32[6,1,1]\n"
)


def dequantize(output, inputs, type="float32[2,4,5,5]"):
    return f"%{output} = dequantize({inputs}) -> {type}\n"


def quantize(output, inputs, low=-128, high=127, type="int8[2,4,5,5]"):
    dtype = type.partition("[")[0]
    return (
        f'%{output} = quantize({inputs}) {{"dtype":{{"dtype":"{dtype}"}},"low":{low},'
        f'"high":{high}}} -> {type}\n'
    )


def conv(x, w, padding=1, epilogue="relu(add(i0,i1))"):
    size = 3 + 2 * padding
    return (
        HEADER + dequantize("x", x) + dequantize("k", w, "float32[6,4,3,3]")
        + convolution("y", "%x, %k, @b", f"float32[2,6,{size},{size}]", padding=padding,
                      epilogue=epilogue) + "output y = %y\n"
    )


@pytest.mark.parametrize("padding", [0, 1])
def test_a_convolution_of_stored_tensors(padding):
    network = check_fires(
        DequantizeIntoContraction(), conv("%p, @s", "@w, @sw", padding), kinds=["convolution"],
        constants=CONSTANTS, lines=["epilogue relu(add(mul(to_float32(i0),i1),i2)) -> float32"],
    )
    scale = network.layers[0].epilogue_inputs[0]
    assert scale.shape == (6, 1, 1)
    np.testing.assert_allclose(scale.data.reshape(-1), CONSTANTS["sw"].reshape(-1) * 0.05, 1e-6)


@pytest.mark.parametrize("padding", [0, 1])
def test_a_zero_point_is_a_shift_and_what_pads(padding):
    check_fires(
        DequantizeIntoContraction(), conv("%p, @s, @z", "@w, @sw", padding),
        kinds=["pad", "convolution"] if padding else ["convolution"], constants=CONSTANTS,
        lines=["add(mul(to_float32(i0),i1),i2)", '"value":3' if padding else "convolution"],
    )


@pytest.mark.parametrize("zero", ["", ", @z"])
def test_a_product_of_stored_tensors(zero):
    source = (
        HEADER + dequantize("x", f"%v, @s{zero}", "float32[3,8]")
        + dequantize("k", "@m, @sm", "float32[5,8]")
        + '%y = matmul(%x, %k) {"transpose_b":true} -> float32[3,5]\noutput y = %y\n'
    )
    check_fires(DequantizeIntoContraction(), source, kinds=["matmul"], constants=CONSTANTS)


@pytest.mark.parametrize(
    ("x", "w", "reason"),
    [
        ("%p, @varying", "@w, @sw", "the scale of its first operand varies"),
        ("%p, %f", "@w, @sw", "not constant"),
        ("%p, @s", "@w, @sw, @wz", "zero point of its second operand"),
    ],
)
def test_convolutions_that_stay_float(x, w, reason):
    check_refused(
        DequantizeIntoContraction(), conv(x, w), reason=reason, constants=CONSTANTS
    )


MOVES = {
    "pool": ('{"mode":"max","kernel":[3,3],"stride":[2,2],"padding_before":[1,1],'
             '"padding_after":[1,1],"dilation":[1,1]}', "[2,4,3,3]"),
    "reshape": ('{"shape":[2,100]}', "[2,100]"),
    "transpose": ('{"permutation":[1,0,2,3]}', "[4,2,5,5]"),
    "pad": ('{"before":[0,0,1,1],"after":[0,0,0,0]}', "[2,4,6,6]"),
}


@pytest.mark.parametrize("kind", MOVES)
def test_what_moves_moves_bytes(kind):
    attributes, shape = MOVES[kind]
    source = (
        HEADER + dequantize("x", "%p, @s, @z")
        + f"%y = {kind}(%x) {attributes} -> float32{shape}\noutput y = %y\n"
    )
    network = check_fires(
        DequantizeAfterMove(), source, kinds=[kind, "dequantize"], constants=CONSTANTS
    )
    assert network.layers[0].output.dtype.value == "int8"


def test_concat_of_one_scale_and_of_two():
    tail = '%y = concat(%x, %u) {"axis":1} -> float32[2,8,5,5]\noutput y = %y\n'
    head = HEADER + dequantize("x", "%p, @s")
    check_fires(
        DequantizeAfterMove(), head + dequantize("u", "%q, @s") + tail,
        kinds=["concat", "dequantize"], constants=CONSTANTS,
    )
    check_refused(
        DequantizeAfterMove(), head + dequantize("u", "%q, @s2") + tail,
        reason="stored differently", constants=CONSTANTS,
    )


def test_a_mean_does_not_move():
    source = (
        HEADER + dequantize("x", "%p, @s")
        + '%y = pool(%x) {"mode":"mean","kernel":[5,5],"stride":[5,5],"padding_before":[0,0],'
        '"padding_after":[0,0],"dilation":[1,1]} -> float32[2,4,1,1]\noutput y = %y\n'
    )
    check_refused(DequantizeAfterMove(), source, reason="", constants=CONSTANTS)


def test_storing_again_is_nothing():
    source = (
        HEADER + "input %f4: float32[2,4,5,5]\n" + quantize("r", "%f4, @s, @z")
        + dequantize("x", "%r, @s, @z") + quantize("y", "%x, @s, @z") + "output y = %y\n"
    )
    check_fires(RemoveRequantize(), source, kinds=["quantize"], constants=CONSTANTS)


@pytest.mark.parametrize(
    ("second", "limits", "reason"),
    [
        ("@s2, @z", (-128, 127), "scales or zero points differ"),
        ("@s", (-128, 127), "scales or zero points differ"),
        ("@s, @z", (-127, 127), "clamps to -127..127"),
    ],
)
def test_storing_otherwise_is_something(second, limits, reason):
    source = HEADER + dequantize("x", "%p, @s, @z") + quantize("y", f"%x, {second}", *limits)
    check_refused(
        RemoveRequantize(), source + "output y = %y\n", reason=reason, constants=CONSTANTS
    )


def test_expressions_dequantize_their_operands():
    source = (
        HEADER + dequantize("x", "%p, @s, @z") + dequantize("u", "%q, @s2")
        + pointwise("y", "%x, %u", "relu(add(i0,i1))", "float32[2,4,5,5]")
        + "output y = %y\noutput x = %u\n"
    )
    check_fires(
        DequantizeIntoExpression(), source, kinds=["dequantize", "pointwise"], constants=CONSTANTS,
        lines=["mul(sub(to_float32(i0),to_float32(i3)),i2)"],
    )


def test_an_epilogue_dequantizes_its_residual():
    source = (
        HEADER + "input %x: float32[2,4,5,5]\nconstant @k: float32[4,4,1,1]\n"
        + dequantize("r", "%p, @s") + convolution(
            "y", "%x, @k, %r", "float32[2,4,5,5]", epilogue="relu(add(i0,i1))"
        ) + "output y = %y\n"
    )
    check_fires(
        DequantizeIntoExpression(), source, kinds=["convolution"], constants=CONSTANTS,
        lines=["relu(add(i0,mul(to_float32(i1),i2)))"],
    )


def test_a_scale_per_channel_stays_a_layer():
    source = (
        HEADER + dequantize("x", "%p, @varying")
        + pointwise("y", "%x", "relu(i0)", "float32[2,4,5,5]") + "output y = %y\n"
    )
    check_refused(
        DequantizeIntoExpression(), source, reason="not one constant", constants=CONSTANTS
    )


@pytest.mark.parametrize("zero", ["", ", @zeros", ", @z"])
def test_what_stays_is_pointwise(zero):
    source = (
        HEADER + "input %x: float32[2,4,5,5]\n" + quantize("q1", f"%x, @s{zero}")
        + dequantize("y", f"%q1, @s{zero}") + "output y = %y\n"
    )
    network = check_fires(
        QuantizationAsPointwise(), source, kinds=["pointwise", "pointwise"], constants=CONSTANTS
    )
    assert [len(layer.inputs) for layer in network.layers] == [3 if "@z" == zero[2:] else 2] * 2


REQUANTIZE = "to_{0}(clamp(round(mul({1},8.0)),{2},{3}))"


@pytest.mark.parametrize(
    ("dtype", "inside", "want"),
    [
        ("int8", "relu(add(mul(i0,i1),i2))", "clamp(round(relu(add("),
        ("uint8", "relu(add(mul(i0,i1),i2))", "clamp(round(add(mul("),
        ("uint8", "clamp(add(mul(i0,i1),i2),0.0,6.0)", "clamp(round(min(add("),
        ("uint8", "clamp(add(mul(i0,i1),i2),0.0,32.0)", "clamp(round(add("),
        ("int8", "add(add(mul(i0,i1),i2),mul(to_float32(i3),0.5))", "mul(to_float32(i3),4.0)"),
        ("int8", "max(add(mul(i0,i1),i2),-1.0)", "max(add(mul(mul(i0,i1),8.0),"),
    ],
)
def test_the_last_scale_goes_into_constants(dtype, inside, want):
    limits = (-128.0, 127.0) if dtype == "int8" else (0.0, 255.0)
    residual = ", %q" if "i3" in inside else ""
    source = (
        HEADER + "input %x: float32[2,6,5,5]\nconstant @g: float32[6,1,1]\n"
        + pointwise("y", f"%x, @g, @b{residual}", REQUANTIZE.format(dtype, inside, *limits),
                    f"{dtype}[2,6,5,5]").replace("%q", "%r") + "output y = %y\n"
    ).replace("input %q: int8[2,4,5,5]", "input %r: int8[2,6,5,5]")
    check_fires(ScaleInsideRequantize(), source, constants=CONSTANTS, lines=[want])


@pytest.mark.parametrize("inside", ["hardswish(add(i0,i1))", "add(mul(i0,i1),i0)", "sigmoid(i0)"])
def test_a_scale_that_does_not_go_inside_stays(inside):
    source = (
        HEADER + "input %x: float32[2,6,5,5]\nconstant @g: float32[6,1,1]\n"
        + pointwise("y", "%x, @g", REQUANTIZE.format("int8", inside, -128.0, 127.0),
                    "int8[2,6,5,5]") + "output y = %y\n"
    )
    check_refused(ScaleInsideRequantize(), source, reason="", constants=CONSTANTS)


def test_the_whole_pipeline_leaves_one_layer():
    source = (
        HEADER + dequantize("x", "%p, @s") + dequantize("k", "@w, @sw", "float32[6,4,3,3]")
        + dequantize("r", "%r8, @s2", "float32[2,6,5,5]")
        + convolution("c", "%x, %k", "float32[2,6,5,5]", padding=1)
        + pointwise("a", "%c, @b, %r", "relu(add(add(i0,i1),i2))", "float32[2,6,5,5]")
        + quantize("y", "%a, @s2", 0, 255, "uint8[2,6,5,5]") + "output y = %y\n"
    ).replace("input %q: int8[2,4,5,5]", "input %r8: int8[2,6,5,5]")
    network = network_of(source, CONSTANTS)
    inputs = {
        name: torch.from_numpy(stored(*[int(d) for d in tensor.shape]))
        for name, tensor in network.inputs.items() if tensor.dtype.value == "int8"
    } | {"f": torch.ones(())}
    before = run_network(network, inputs)["y"]
    optimize(network)
    (layer,) = network.layers
    assert layer.epilogue.text == (
        "to_uint8(clamp(round(add(add(mul(to_float32(i0),i1),i2),to_float32(i3))),0.0,255.0))"
    )
    steps = (run_network(network, inputs)["y"].short() - before.short()).abs()
    assert int(steps.max()) <= 1
    assert float((steps > 0).float().mean()) < 0.01
    run_twice(Fuse("again", (ScaleInsideRequantize(),)), network)
