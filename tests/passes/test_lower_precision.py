"""Lower precision: which operands are cast, and that what moves a value moves it in its dtype."""

import numpy as np
import pytest

from torch2rt.errors import PrecisionError
from torch2rt.layers.registry import import_all_kinds
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log
from torch2rt.passes.lower_precision import LowerPrecision, convert_float

HEADER = "network n\ninput %x: float32[2,3]\n"
OUTPUT = "output y = %y\n"


def lowered(body: str, dtype=DType.BFLOAT16, **constants) -> Network:
    import_all_kinds()
    arrays = {
        name: given if isinstance(given, np.ndarray) else np.ones(given, np.float32)
        for name, given in constants.items()
    }
    network = parse(HEADER + body + OUTPUT, arrays)
    LowerPrecision(dtype).run(network, Log())
    verify(network)
    return network


@pytest.mark.parametrize(
    ("kind", "attributes", "shape"),
    [
        ("expand", '{"shape":[2,3]}', [2, 3]),
        ("transpose", '{"permutation":[1,0]}', [3, 1]),
        ("reshape", '{"shape":[3]}', [3]),
    ],
)
def test_a_constant_that_is_moved_is_stored_in_the_dtype_of_the_result(kind, attributes, shape):
    network = lowered(
        f"constant @c: float32[1,3]\n%y = {kind}(@c) {attributes} -> float32{shape}\n"
        .replace(", ", ",").replace(") {", ") {"), c=(1, 3),
    )
    layer = network.layers[0]
    assert layer.inputs[0].dtype == layer.output.dtype
    assert layer.inputs[0].dtype.value == "bfloat16"
    assert network.outputs["y"].dtype.value == "float32"


def test_weights_are_stored_low_and_operands_of_the_epilogue_stay_wide():
    network = lowered(
        "constant @w: float32[4,3]\nconstant @b: float32[4]\n"
        '%y = matmul(%x, @w, @b) {"transpose_b":true} epilogue add(i0,i1) -> float32[2,4]\n',
        w=(4, 3), b=(4,),
    )
    layer = next(layer for layer in network.layers if layer.kind.name == "matmul")
    assert [tensor.dtype.value for tensor in layer.inputs] == ["bfloat16", "bfloat16", "float32"]


def test_a_second_run_finds_nothing_to_do():
    network = lowered('%y = softmax(%x) {"axis":1} -> float32[2,3]\n')
    before = text(network)
    assert "to_bfloat16" in before
    assert not LowerPrecision().run(network, Log())
    assert text(network) == before


def test_rows_of_a_table_are_taken_in_low_precision():
    network = lowered(
        "input %i: int64[2]\nconstant @t: float32[9,3]\nconstant @w: float32[4,3]\n"
        '%e = take(@t, %i) {"axis":0} -> float32[2,3]\n'
        '%y = matmul(%e, @w) {"transpose_b":true} -> float32[2,4]\n', t=(9, 3), w=(4, 3),
    )
    take, product = network.layers[:2]
    assert [tensor.dtype.value for tensor in take.inputs] == ["bfloat16", "int64"]
    assert product.inputs[0] is take.output


def in_float16(body: str, **constants) -> Network:
    network = lowered(body, DType.FLOAT16, **constants)
    before = text(network)
    assert not LowerPrecision(DType.FLOAT16).run(network, Log())
    assert text(network) == before
    return network


def dtypes(network: Network) -> dict[str, str]:
    return {layer.name: layer.output.dtype.value for layer in network.layers}


def test_a_spelled_root_mean_square_keeps_its_squares_in_float32():
    network = in_float16(
        '%s = pointwise(%x) {"expression":{"expression":"mul(i0,i0)"},"dtype":{"dtype":"float32"}}'
        ' -> float32[2,3]\n'
        '%m = reduce(%s) {"mode":"mean","axes":[1],"keepdim":true} -> float32[2,1]\n'
        '%y = pointwise(%x, %m) {"expression":{"expression":"mul(i0,rsqrt(add(i1,0.001)))"},'
        '"dtype":{"dtype":"float32"}} -> float32[2,3]\n'
    )
    found = dtypes(network)
    assert (found["s"], found["m"], found["y"]) == ("float32", "float32", "float16")


def test_a_sum_is_float32_and_a_mean_is_not():
    for mode, expected in (("sum", "float32"), ("mean", "float16")):
        network = in_float16(
            '%t = softmax(%x) {"axis":1} -> float32[2,3]\n'
            f'%y = reduce(%t) {{"mode":"{mode}","axes":[1],"keepdim":true}} -> float32[2,1]\n'
        )
        reduce = next(layer for layer in network.layers if layer.kind.name == "reduce")
        assert reduce.inputs[0].dtype.value == reduce.output.dtype.value == expected


def test_what_the_model_computes_in_half_stays():
    network = in_float16(
        "input %h: float16[2,3]\n"
        '%c = cumulative(%h) {"mode":"sum","axis":1} -> float16[2,3]\n'
        '%y = softmax(%x) {"axis":1} -> float32[2,3]\noutput z = %c\n'
    )
    layer = next(layer for layer in network.layers if layer.kind.name == "cumulative")
    assert layer.inputs[0].name == "h"
    assert network.outputs["z"].dtype is DType.FLOAT16


def test_a_weight_beyond_the_range_is_named():
    weight = np.full((4, 3), 70000, np.float32)
    with pytest.raises(PrecisionError, match=r"constant 'w' of layer y .* holds 70000, .*bf16"):
        in_float16('%y = matmul(%x, @w) {"transpose_b":true} -> float32[2,4]\n'
                   .replace("%y", "constant @w: float32[4,3]\n%y", 1), w=weight)


def test_numbers_of_a_mask_are_limited_to_the_range():
    network = in_float16(
        '%y = pointwise(%x) {"expression":{"expression":"mul(i0,-3.4028234663852886e+38)"},'
        '"dtype":{"dtype":"float32"}} -> float32[2,3]\n'
    )
    layer = next(layer for layer in network.layers if layer.name == "y")
    assert layer.kind.expression.text.startswith("clamp(mul(")


def test_constants_are_rounded_once_and_never_become_infinite():
    values = np.array([1e9, -1e9, np.inf, -np.inf, 1.0, np.nan], np.float32)
    half = convert_float(values, DType.FLOAT32, DType.FLOAT16)
    expected = [65504, -65504, np.inf, -np.inf, 1, np.nan]
    assert np.array_equal(half, np.array(expected, np.float16), equal_nan=True)


TWO_PRODUCTS = (
    "constant @v: float32[3,3]\nconstant @w: float32[3,3]\n"
    '%p = matmul(%x, @v) {"transpose_b":true} -> float32[2,3]\n'
    '%q = pointwise(%p) {"expression":{"expression":"mul(i0,0.001)"},'
    '"dtype":{"dtype":"float32"}} -> float32[2,3]\n'
    '%y = matmul(%q, @w) {"transpose_b":true} -> float32[2,3]\n'
)


def with_wide(*wide: str, is_kept=None) -> Network:
    import_all_kinds()
    arrays = {name: np.ones((3, 3), np.float32) for name in "vw"}
    network = parse(HEADER + TWO_PRODUCTS + OUTPUT, arrays)
    step = LowerPrecision(DType.FLOAT16, wide=wide, is_kept=is_kept)
    step.run(network, Log())
    verify(network)
    before = text(network)
    assert not step.run(network, Log())
    assert text(network) == before
    return network


def operands(network: Network) -> dict[str, list[str]]:
    return {
        layer.name: [tensor.dtype.value for tensor in (*layer.inputs, *layer.outputs)]
        for layer in network.layers if layer.name in ("p", "q", "y")
    }


def test_layers_of_tensors_that_calibration_saw_leave_float16_stay_float32():
    low, wide = ["float16"] * 3, ["float32"] * 3
    assert operands(with_wide()) == {"p": low, "q": low[:2], "y": low}
    for name in ("p", "x"):  # and what is computed from those alone
        assert operands(with_wide(name)) == {"p": wide, "q": wide[:2], "y": low}
    assert operands(with_wide("y")) == {"p": low, "q": low[:2], "y": wide}


def test_layers_that_are_to_be_kept_stay_float32():
    network = with_wide(is_kept=lambda layer: layer.name == "y")
    assert operands(network)["y"] == ["float32"] * 3
    assert operands(network)["p"] == ["float16"] * 3
