"""Epilogues: what becomes part of the layer before, and what does not."""

import pytest
from fusion_testing import check_fires, check_refused, convolution, network_of, pointwise

from torch2rt.fusions.base import Fuse
from torch2rt.fusions.epilogue import FuseEpilogue
from torch2rt.network.text import text
from torch2rt.passes.base import Log

CONV = convolution("a", "%x, @w", "float32[2,4,5,5]", padding=1)
HEAD = "input %x: float32[2,3,5,5]\nconstant @w: float32[4,3,3,3]\n"


def test_bias_residual_and_activation() -> None:
    source = (
        HEAD + "input %r: float32[2,4,5,5]\nconstant @bias: float32[4,1,1]\n" + CONV
        + pointwise("b", "%a, @bias", "add(i0,i1)", "float32[2,4,5,5]")
        + pointwise("c", "%r, %b", "add(i0,i1)", "float32[2,4,5,5]")
        + pointwise("d", "%c", "relu(i0)", "float32[2,4,5,5]")
        + "output y = %d\n"
    )
    network = check_fires(FuseEpilogue(), source, kinds=["convolution"])
    (layer,) = network.layers
    assert layer.name == "a"
    assert layer.epilogue is not None
    assert layer.epilogue.text == "relu(add(i1,add(i0,i2)))"
    assert [tensor.name for tensor in layer.epilogue_inputs] == ["r", "bias"]


def test_of_two_convolutions_the_later_one_takes_the_sum() -> None:
    source = (
        HEAD + CONV + CONV.replace("%a", "%b")
        + pointwise("c", "%b, %a", "relu(add(i0,i1))", "float32[2,4,5,5]") + "output y = %c\n"
    )
    network = check_fires(FuseEpilogue(), source, kinds=["convolution", "convolution"])
    first, second = network.layers
    assert (first.name, second.name) == ("a", "b")
    assert second.epilogue_inputs == (first.output,)


def test_both_convolutions_take_their_own_activation_before_the_sum() -> None:
    source = (
        HEAD + CONV + pointwise("ra", "%a", "relu(i0)", "float32[2,4,5,5]")
        + CONV.replace("%a", "%b") + pointwise("rb", "%b", "sigmoid(i0)", "float32[2,4,5,5]")
        + pointwise("c", "%ra, %rb", "mul(i0,i1)", "float32[2,4,5,5]") + "output y = %c\n"
    )
    network = check_fires(FuseEpilogue(), source, kinds=["convolution", "convolution"])
    assert [str(layer.epilogue.text) for layer in network.layers if layer.epilogue] == [
        "relu(i0)", "mul(i1,sigmoid(i0))",
    ]


def test_an_operand_read_twice() -> None:
    source = (
        HEAD + CONV + pointwise("b", "%a", "mul(i0,sigmoid(i0))", "float32[2,4,5,5]")
        + "output y = %b\n"
    )
    check_fires(FuseEpilogue(), source, kinds=["convolution"], lines=["mul(i0,sigmoid(i0))"])


def test_matmul_pool_and_reduce() -> None:
    source = (
        "input %x: float32[2,8]\nconstant @w: float32[4,8]\nconstant @bias: float32[4]\n"
        '%a = matmul(%x, @w) {"transpose_b":true} -> float32[2,4]\n'
        + pointwise("b", "%a, @bias", "gelu(add(i0,i1))", "float32[2,4]")
        + '%c = reduce(%b) {"mode":"mean","axes":[1],"keepdim":true} -> float32[2,1]\n'
        + pointwise("d", "%c", "rsqrt(add(square(i0),1.0))", "float32[2,1]") + "output y = %d\n"
    )
    check_fires(FuseEpilogue(), source, kinds=["matmul", "reduce"])


def test_symbolic_batch() -> None:
    source = (
        "symbol s0 in 1..9\ninput %x: float32[s0,8]\nconstant @w: float32[4,8]\n"
        '%a = matmul(%x, @w) {"transpose_b":true} -> float32[s0,4]\n'
        + pointwise("b", "%a", "relu(i0)", "float32[s0,4]") + "output y = %b\n"
    )
    check_fires(FuseEpilogue(), source, kinds=["matmul"])


def test_another_dtype_is_the_dtype_of_the_result() -> None:
    source = HEAD + CONV + pointwise(
        "b", "%a", "relu(i0)", "float16[2,4,5,5]"
    ) + "output y = %b\n"
    network = check_fires(FuseEpilogue(), source, kinds=["convolution"])
    assert network.layers[0].output.dtype.value == "float16"


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (pointwise("b", "%a", "relu(i0)", "float32[2,4,5,5]") + "output y = %b\noutput z = %a\n",
         "network output"),
        (pointwise("b", "%a", "relu(i0)", "float32[2,4,5,5]")
         + pointwise("c", "%a", "exp(i0)", "float32[2,4,5,5]")
         + "output y = %b\noutput z = %c\n", "2 readers"),
        (pointwise("b", "%a, %big", "add(i0,i1)", "float32[3,2,4,5,5]") + "output y = %b\n",
         "broadcast"),
        (pointwise("b", "%a", "gt(i0,0.0)", "bool[2,4,5,5]") + "output y = %b\n", "bool"),
    ],
)
def test_refusals(tail: str, reason: str) -> None:
    source = HEAD + "input %big: float32[3,2,4,5,5]\n" + CONV + tail
    check_refused(FuseEpilogue(), source, reason=reason)


def test_an_epilogue_does_not_grow_without_bound() -> None:
    expression = "i0"
    for _ in range(70):
        expression = f"exp({expression})"
    source = HEAD + CONV + pointwise("b", "%a", expression, "float32[2,4,5,5]") + "output y = %b\n"
    check_refused(FuseEpilogue(), source, reason="terms")


def test_too_many_operands() -> None:
    names = [f"r{index}" for index in range(9)]
    expression = "i0"
    for index in range(9):
        expression = f"add({expression},i{index + 1})"
    source = (
        HEAD + "".join(f"input %{name}: float32[2,4,5,5]\n" for name in names) + CONV
        + pointwise("b", ", ".join(["%a", *(f"%{n}" for n in names)]), expression,
                    "float32[2,4,5,5]") + "output y = %b\n"
    )
    check_refused(FuseEpilogue(), source, reason="read 9 tensors")


def test_float16_is_not_written_by_kernels_of_cpus() -> None:
    source = (
        "input %x: float32[2,4]\nconstant @w: float32[3,4]\n"
        '%a = matmul(%x, @w) {"transpose_b":true} -> float32[2,3]\n'
        + pointwise("y", "%a", "to_float16(i0)", "float16[2,3]") + "output y = %y\n"
    )
    check_fires(FuseEpilogue.for_target("cuda"), source, kinds=["matmul"])
    check_refused(FuseEpilogue.for_target("cpu"), source, reason="float16, which kernels of CPUs")


def test_layers_without_epilogue_do_not_match() -> None:
    source = (
        'input %x: float32[2,6]\n%a = reshape(%x) {"shape":[3,4]} -> float32[3,4]\n'
        + pointwise("b", "%a", "relu(i0)", "float32[3,4]") + "output y = %b\n"
    )
    check_refused(FuseEpilogue(), source, reason="")


def test_an_integer_cast_inside_is_kept() -> None:
    source = (
        HEAD + CONV + pointwise("b", "%a", "mul(i0,4.0)", "int8[2,4,5,5]")
        + pointwise("c", "%b", "mul(i0,0.25)", "float32[2,4,5,5]") + "output y = %c\n"
    )
    network = check_fires(FuseEpilogue(), source)
    assert [layer.kind.name for layer in network.layers] == ["convolution", "pointwise"]


NORM = "input %x: float32[2,8]\n" \
    '%n = layer_norm(%x) {"axis_count":1,"eps":1e-05,"is_centered":true,"has_weight":false,' \
    '"has_bias":false} -> float32[2,8]\n'
TO_BYTES = "to_int8(clamp(round(mul(i0,30.0)),-128.0,127.0))"


def test_norms_round_to_bytes_on_a_gpu() -> None:
    source = NORM + pointwise("y", "%n", TO_BYTES, "int8[2,8]") + "output y = %y\n"
    fusion = FuseEpilogue.for_target("cuda")
    network = check_fires(fusion, source, kinds=["layer_norm"])
    assert network.layers[0].output.dtype.value == "int8"
    network = network_of(source)
    before = text(network)
    assert not Fuse("cpu", (FuseEpilogue.for_target("cpu"),)).run(network, Log())
    assert text(network) == before


@pytest.mark.parametrize("end", [
    pointwise("y", "%n", "gelu(i0)", "float32[2,8]") + "output y = %y\n",
    pointwise("y", "%n, %x", "to_int8(clamp(round(add(i0,i1)),-128.0,127.0))", "int8[2,8]")
    + "output y = %y\n",
    pointwise("y", "%n", TO_BYTES, "int8[2,8]") + "output y = %y\noutput n = %n\n",
])
def test_norms_take_nothing_else(end: str) -> None:
    network = network_of(NORM + end)
    before = text(network)
    assert not Fuse("cuda", (FuseEpilogue.for_target("cuda"),)).run(network, Log())
    assert text(network) == before


def attention(dtype: str, result: str, end: str, type: str) -> str:
    operands = "".join(f"input %{name}: {dtype}[2,3,4]\n" for name in "qkv")
    return (
        operands + f'%a = attention(%q, %k, %v) {{"scale":0.5}} -> {result}[2,3,4]\n'
        + pointwise("y", "%a", end, f"{type}[2,3,4]") + "output y = %y\n"
    )


FLOAT8_END = "clamp(mul(i0,60.0),-448.0,448.0)"


def test_attention_over_float8_rounds_to_float8() -> None:
    source = attention("float8_e4m3fn", "float32", FLOAT8_END, "float8_e4m3fn")
    check_fires(
        FuseEpilogue.for_target("cuda"), source, kinds=["attention"],
        lines=[f"epilogue {FLOAT8_END} -> float8_e4m3fn[2,3,4]"],
    )


@pytest.mark.parametrize(("dtype", "result", "end", "type"), [
    ("float16", "float16", FLOAT8_END, "float8_e4m3fn"),
    ("float16", "float16", "relu(i0)", "float16"),
    ("float8_e4m3fn", "float32", "relu(i0)", "float32"),
    ("float8_e4m3fn", "float32", "to_int8(clamp(round(i0),-128.0,127.0))", "int8"),
])
def test_attention_takes_nothing_else(dtype: str, result: str, end: str, type: str) -> None:
    check_refused(
        FuseEpilogue.for_target("cuda"), attention(dtype, result, end, type), reason=""
    )
