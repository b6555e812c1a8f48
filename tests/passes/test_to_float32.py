"""Wider precision: where casts go, that values stay, that a second run finds nothing."""

import numpy as np
import pytest
import torch

from torch2rt.backends.reference.executor import run_network
from torch2rt.errors import PrecisionError
from torch2rt.layers.registry import import_all_kinds
from torch2rt.network.copy import copy_network
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log
from torch2rt.passes.to_float32 import DOUBLES, ToFloat32, multiplies_doubles

BODY = (
    "network n\ninput %x: float16[2,3]\nconstant @w: float16[4,3]\nconstant @b: float16[4]\n"
    '%m = matmul(%x, @w) {"transpose_b":true} -> float16[2,4]\n'
    '%y = pointwise(%m, @b) {"expression":{"expression":"relu(add(i0,i1))"},'
    '"dtype":{"dtype":"float16"}} -> float16[2,4]\noutput y = %y\n'
)


def network() -> Network:
    import_all_kinds()
    rng = np.random.default_rng(0)
    return parse(BODY, {
        "w": rng.standard_normal((4, 3)).astype(np.float16),
        "b": rng.standard_normal(4).astype(np.float16),
    })


def widened(changed: Network) -> Network:
    assert ToFloat32().run(changed, Log())
    verify(changed)
    return changed


def test_layers_compute_in_float32_and_bindings_keep_their_dtypes():
    result = widened(network())
    assert result.inputs["x"].dtype is DType.FLOAT16
    assert result.outputs["y"].dtype is DType.FLOAT16
    kinds = {layer.kind.name: layer for layer in result.layers}
    assert {t.dtype for t in kinds["matmul"].inputs} == {DType.FLOAT32}
    assert kinds["matmul"].output.dtype is DType.FLOAT32


def test_values_are_those_of_half_without_its_roundings():
    before = network()
    after = widened(copy_network(before))
    x = {"x": torch.randn(2, 3).half()}
    exact = run_network(before, {"x": x["x"].double()}, dtype=torch.float64)["y"]
    result = run_network(after, x)["y"]
    assert result.dtype is torch.float16
    torch.testing.assert_close(result.double(), exact, rtol=2**-10, atol=1e-6)


def test_a_second_run_finds_nothing_to_do():
    result = widened(network())
    before = text(result)
    assert not ToFloat32().run(result, Log())
    assert text(result) == before


def test_float32_stays_as_it_is():
    import_all_kinds()
    body = BODY.replace("float16", "float32")
    arrays = {"w": np.ones((4, 3), np.float32), "b": np.ones(4, np.float32)}
    assert not ToFloat32().run(parse(body, arrays), Log())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kinds_that_may_not_take_float32_keep_their_halves(dtype):
    import_all_kinds()
    body = (
        f"network n\ninput %x: {dtype}[2,3]\n"
        f'%a = pointwise(%x) {{"expression":{{"expression":"relu(i0)"}},'
        f'"dtype":{{"dtype":"{dtype}"}}}} -> {dtype}[2,3]\n'
        f'%s, %i = sort(%a) {{"axis":1}} -> {dtype}[2,3], int64[2,3]\n'
        "output y = %s\n"
    )
    result = widened(parse(body, {}))
    sort = next(layer for layer in result.layers if layer.kind.name == "sort")
    assert sort.inputs[0].dtype.value == dtype
    assert result.outputs["y"].dtype.value == dtype


# ---- from float64 ------------------------------------------------------------------------------

LARGEST = float(np.finfo(np.float32).max)
DOUBLE = BODY.replace("float16", "float64")


def double(body: str = DOUBLE, weight: float = 1.0, bias: float = 1.0) -> Network:
    import_all_kinds()
    return parse(body, {"w": np.full((4, 3), weight), "b": np.full(4, bias)})


def narrowed(network: Network) -> Network:
    assert ToFloat32(DOUBLES).run(network, Log())
    verify(network)
    before = text(network)
    assert not ToFloat32(DOUBLES).run(network, Log())
    assert text(network) == before
    return network


def test_a_model_in_double_computes_in_float32_between_its_own_inputs_and_outputs():
    result = narrowed(double())
    assert result.inputs["x"].dtype is result.outputs["y"].dtype is DType.FLOAT64
    kinds = {layer.kind.name: layer for layer in result.layers if layer.name != "y.float64"}
    assert {t.dtype for t in kinds["matmul"].inputs} == {DType.FLOAT32}
    x = torch.rand(2, 3, dtype=torch.float64)
    got, want = run_network(result, {"x": x})["y"], run_network(double(), {"x": x})["y"]
    assert got.dtype is torch.float64
    assert 0 < (got - want).abs().max() < 1e-5


def test_casts_and_numbers_inside_expressions_are_narrowed_too():
    body = DOUBLE.replace("relu(add(i0,i1))", "add(to_float64(i0),-1.5e308)")
    body = body.replace("(%m, @b)", "(%m)").replace("constant @b: float64[4]\n", "")
    result = narrowed(parse(body, {"w": np.ones((4, 3))}))
    expressions = [
        layer.kind.expression.text for layer in result.layers if layer.kind.name == "pointwise"
    ]
    assert f"add(to_float32(i0),{-LARGEST!r})" in expressions


def test_numbers_beyond_float32_become_its_largest_but_for_weights():
    result = narrowed(double(bias=-1.5e308))
    (bias,) = [t for t in result.tensors if t.name.startswith("b") and t.dtype is DType.FLOAT32]
    assert bias.data is not None
    assert (bias.data == -np.float32(LARGEST)).all()
    with pytest.raises(PrecisionError, match=r"'w' of layer m .*1e\+39, and float32 ends at"):
        ToFloat32(DOUBLES).run(double(weight=1e39), Log())


def test_weights_tell_a_model_in_double_from_one_with_a_few_doubles():
    assert multiplies_doubles(double())
    assert not multiplies_doubles(network())
    only = "\n".join(
        line for line in DOUBLE.splitlines() if "matmul" not in line and "@w" not in line
    ).replace("pointwise(%m, @b)", "pointwise(%x)").replace("relu(add(i0,i1))", "relu(i0)")
    only = only.replace("[2,4]", "[2,3]").replace("constant @b: float64[4]\n", "")
    assert not multiplies_doubles(parse(f"{only}\n", {}))
