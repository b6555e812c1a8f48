"""Wider precision: where casts go, that values stay, that a second run finds nothing."""

import numpy as np
import pytest
import torch

from torch2rt.backends.reference.executor import run_network
from torch2rt.layers.registry import import_all_kinds
from torch2rt.network.copy import copy_network
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.text import parse, text
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log
from torch2rt.passes.widen_halves import WidenHalves

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
    assert WidenHalves().run(changed, Log())
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
    assert not WidenHalves().run(result, Log())
    assert text(result) == before


def test_float32_stays_as_it_is():
    import_all_kinds()
    body = BODY.replace("float16", "float32")
    arrays = {"w": np.ones((4, 3), np.float32), "b": np.ones(4, np.float32)}
    assert not WidenHalves().run(parse(body, arrays), Log())


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
