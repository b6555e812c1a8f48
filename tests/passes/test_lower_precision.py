"""Lower precision: which operands are cast, and that what moves a value moves it in its dtype."""

import pytest

from torch2rt.layers.registry import import_all_kinds
from torch2rt.network.network import Network
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log
from torch2rt.passes.lower_precision import LowerPrecision

HEADER = "network n\ninput %x: float32[2,3]\n"
OUTPUT = "output y = %y\n"


def lowered(body: str, **constants) -> Network:
    import numpy as np

    import_all_kinds()
    arrays = {name: np.ones(shape, np.float32) for name, shape in constants.items()}
    network = parse(HEADER + body + OUTPUT, arrays)
    LowerPrecision().run(network, Log())
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
