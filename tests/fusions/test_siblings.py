"""Convolutions and matmuls of one input that become one."""

import pytest
from fusion_testing import check_fires, check_refused, convolution, pointwise

from torch2rt.fusions.merge_sibling_convolutions import MergeSiblingConvolutions
from torch2rt.fusions.merge_sibling_matmuls import MergeSiblingMatmuls

HEAD = (
    "input %x: float32[2,3,5,5]\ninput %r: float32[2,4,5,5]\nconstant @wa: float32[4,3,1,1]\n"
    "constant @wb: float32[2,3,1,1]\nconstant @wc: float32[2,3,3,3]\nconstant @ba: float32[4,1,1]\n"
    "constant @bb: float32[2,1,1]\nconstant @wide: float32[512,3,1,1]\n"
    "constant @wg: float32[3,1,1,1]\n"
)
A, B = "float32[2,4,5,5]", "float32[2,2,5,5]"
CONV_A = convolution("a", "%x, @wa, @ba", A, epilogue="relu(add(i0,i1))")
CONV_B = convolution("b", "%x, @wb, @bb", B, epilogue="relu(add(i0,i1))")
CONV_C = convolution("c", "%x, @wc", B, padding=1)


def tail(*names: str) -> str:
    """Read results through a pointwise layer, so that they are no network outputs."""
    types = {"a": A, "b": B, "c": B, "d": "float32[2,512,5,5]", "e": "float32[2,3,5,5]",
             "f": "float32[2,3,5,5]"}
    return "".join(
        pointwise(f"t{name}", f"%{name}", "exp(i0)", types[name]) + f"output {name} = %t{name}\n"
        for name in names
    )


def test_two_of_three_convolutions_have_one_geometry() -> None:
    source = HEAD + CONV_A + CONV_C + CONV_B + tail("a", "b", "c")
    network = check_fires(MergeSiblingConvolutions(), source)
    merged = network.layers[0]
    assert merged.name == "a-b"
    assert merged.inputs[1].shape == (6, 3, 1, 1)
    assert [layer.kind.name for layer in network.layers].count("convolution") == 2
    slices = [layer for layer in network.layers if layer.kind.name == "slice"]
    assert [layer.output.shape[1] for layer in slices] == [4, 2]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (CONV_A + CONV_B + tail("a") + "output b = %b\n", "network output"),
        (convolution("a", "%x, @wa, %r", A, epilogue="add(i0,i1)")
         + convolution("b", "%x, @wa, %r", A, epilogue="add(i0,i1)")
         + pointwise("u", "%a, %b", "add(i0,i1)", A) + "output u = %u\n", "constants per channel"),
        (convolution("d", "%x, @wide", "float32[2,512,5,5]") + convolution("b", "%x, @wb", B)
         + tail("d", "b"), "512 channels"),
        (convolution("e", "%x, @wg", "float32[2,3,5,5]", groups=3)
         + convolution("f", "%x, @wg", "float32[2,3,5,5]", groups=3) + tail("e", "f"), "groups"),
        (CONV_A + convolution("b", "%x, @wb", B) + tail("a", "b"), ""),
        (CONV_A + tail("a"), ""),
    ],
)
def test_convolutions_refused(body: str, reason: str) -> None:
    check_refused(MergeSiblingConvolutions(), HEAD + body, reason=reason)


MATMUL = (
    "input %x: float32[2,3,4]\nconstant @wa: float32[{a}]\nconstant @wb: float32[{b}]\n"
    "constant @ba: float32[5]\nconstant @bb: float32[6]\n"
    '%a = matmul(%x, @wa, @ba) {{"transpose_b":{flag}}} epilogue add(i0,i1) -> float32[2,3,5]\n'
    '%b = matmul(%x, @wb, @bb) {{"transpose_b":{flag}}} epilogue add(i0,i1) -> float32[2,3,6]\n'
    + pointwise("c", "%a", "exp(i0)", "float32[2,3,5]").replace("{", "{{").replace("}", "}}")
    + pointwise("d", "%b", "exp(i0)", "float32[2,3,6]").replace("{", "{{").replace("}", "}}")
    + "output c = %c\noutput d = %d\n"
)


@pytest.mark.parametrize("flag", ["true", "false"])
def test_matmuls(flag: str) -> None:
    a, b = ("5,4", "6,4") if flag == "true" else ("4,5", "4,6")
    source = MATMUL.format(a=a, b=b, flag=flag)
    network = check_fires(MergeSiblingMatmuls(), source)
    kinds = ["matmul", "slice", "slice", "pointwise", "pointwise"]
    assert [layer.kind.name for layer in network.layers] == kinds


def test_a_matmul_whose_result_is_returned_is_refused() -> None:
    source = MATMUL.format(a="5,4", b="6,4", flag="true") + "output e = %b\n"
    check_refused(MergeSiblingMatmuls(), source, reason="network output")


def test_on_a_gpu_wide_siblings_merge_too() -> None:
    source = HEAD + (
        convolution("d", "%x, @wide", "float32[2,512,5,5]") + convolution("b", "%x, @wb", B)
        + tail("d", "b")
    )
    check_fires(MergeSiblingConvolutions.for_target("cuda"), source)
    source = (
        "input %x: float32[2,3]\nconstant @wq: float32[3,512]\nconstant @wk: float32[3,512]\n"
        "%q = matmul(%x, @wq) -> float32[2,512]\n%k = matmul(%x, @wk) -> float32[2,512]\n"
        + pointwise("y", "%q, %k", "mul(i0,i1)", "float32[2,512]") + "output y = %y\n"
    )
    check_refused(MergeSiblingMatmuls.for_target("cpu"), source, reason="512 channels")
    check_fires(MergeSiblingMatmuls.for_target("cuda"), source)


@pytest.mark.parametrize(
    ("parts", "name"), [("%a, %tb", "b-a"), ("%tb, %a", "a-b"), ("%ta, %tb", "a-b")]
)
def test_on_a_gpu_what_begins_a_concat_ends_the_rows(parts: str, name: str) -> None:
    source = HEAD + CONV_A + (
        pointwise("ta", "%a", "exp(i0)", A) if "%ta" in parts else ""
    ) + CONV_B + pointwise("tb", "%b", "exp(i0)", B) + (
        f'%c = concat({parts}) {{"axis":1}} -> float32[2,6,5,5]\noutput c = %c\n'
    )
    network = check_fires(MergeSiblingConvolutions.for_target("cuda"), source)
    assert network.layers[0].name == name
    assert check_fires(MergeSiblingConvolutions(), source).layers[0].name == "a-b"


@pytest.mark.parametrize("second", ["float16", "float32"])
def test_biases_of_half_models_stack(second: str) -> None:
    """Query and key of a model in half, whose biases are so too."""
    source = (
        "input %x: float16[2,3]\nconstant @wq: float16[3,4]\nconstant @wk: float16[3,4]\n"
        f"constant @bq: float16[4]\nconstant @bk: {second}[4]\n"
        "%q = matmul(%x, @wq, @bq) epilogue add(i0,i1) -> float16[2,4]\n"
        "%k = matmul(%x, @wk, @bk) epilogue add(i0,i1) -> float16[2,4]\n"
        + pointwise("y", "%q, %k", "mul(i0,i1)", "float16[2,4]") + "output y = %y\n"
    )
    network = check_fires(MergeSiblingMatmuls(), source)
    assert network.layers[0].epilogue_inputs[0].dtype.value == second
    assert network.layers[0].output.dtype.value == "float16"


def test_convolutions_of_bytes_become_one() -> None:
    head = (
        "input %x: int8[2,3,5,5]\nconstant @wa: int8[4,3,1,1]\nconstant @wb: int8[2,3,1,1]\n"
        "constant @sa: float32[4,1,1]\nconstant @sb: float32[2,1,1]\n"
    )
    epilogue = "relu(mul(to_float32(i0),i1))"
    source = head + convolution("a", "%x, @wa, @sa", A, epilogue=epilogue) + convolution(
        "b", "%x, @wb, @sb", B, epilogue=epilogue
    ) + tail("a", "b")
    network = check_fires(MergeSiblingConvolutions(), source)
    weight = network.layers[0].inputs[1]
    assert (weight.shape, weight.dtype.value) == ((6, 3, 1, 1), "int8")
