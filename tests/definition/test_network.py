"""Networks written layer by layer: each method against torch, whole networks as engines."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import torch2rt
from torch2rt.backends.reference.executor import run_network
from torch2rt.build.timing_cache import TimingCache
from torch2rt.errors import ConfigError, DefinitionError
from torch2rt.network.verify import verify

F64 = torch.float64
X = torch.randn(2, 6, 8, 8, dtype=F64)
ROWS = torch.randn(3, 5, 16, dtype=F64)
W = torch.randn(4, 6, 3, 3, dtype=F64)
B = torch.randn(4, dtype=F64)
SIX = torch.rand(4, 6, dtype=F64) + 0.5

# name: (input, what the method does, what torch does)
CASES = {
    "convolution": (
        X, lambda n, x: n.add_convolution(x, W, B, stride=2, padding=1),
        lambda x: functional.conv2d(x, W, B, 2, 1),
    ),
    "grouped": (
        X, lambda n, x: n.add_convolution(x, W[:, :3], groups=2, dilation=2),
        lambda x: functional.conv2d(x, W[:, :3], None, groups=2, dilation=2),
    ),
    "deconvolution": (
        X, lambda n, x: n.add_deconvolution(
            x, W.transpose(0, 1), B, stride=2, padding=1, output_padding=1
        ),
        lambda x: functional.conv_transpose2d(x, W.transpose(0, 1), B, 2, 1, 1),
    ),
    "max_pooling": (
        X, lambda n, x: n.add_pooling(x, "max", 3, stride=2, padding=1),
        lambda x: functional.max_pool2d(x, 3, 2, 1),
    ),
    "mean_pooling": (
        X, lambda n, x: n.add_pooling(x, "mean", (2, 3)),
        lambda x: functional.avg_pool2d(x, (2, 3)),
    ),
    "mean_pooling_uncounted": (
        X, lambda n, x: n.add_pooling(x, "mean", 2, padding=1, count_padding=False),
        lambda x: functional.avg_pool2d(x, 2, padding=1, count_include_pad=False),
    ),
    "adaptive_pooling": (
        X, lambda n, x: n.add_adaptive_pooling(x, "mean", (2, 4)),
        lambda x: functional.adaptive_avg_pool2d(x, (2, 4)),
    ),
    "batch_norm": (
        X, lambda n, x: n.add_batch_norm(x, *SIX.float(), eps=1e-3),
        lambda x: functional.batch_norm(x, SIX[0], SIX[1], SIX[2], SIX[3], eps=1e-3),
    ),
    "group_norm": (
        X, lambda n, x: n.add_group_norm(x, 2, SIX[0], SIX[1]),
        lambda x: functional.group_norm(x, 2, SIX[0], SIX[1]),
    ),
    "resize": (
        X, lambda n, x: n.add_resize(x, "nearest", scale=2),
        lambda x: functional.interpolate(x, scale_factor=2, mode="nearest"),
    ),
    "space_to_depth": (
        X, lambda n, x: n.add_space_to_depth(x, 2), lambda x: functional.pixel_unshuffle(x, 2),
    ),
    "linear": (
        ROWS, lambda n, x: n.add_linear(x, W.reshape(4, 54)[:, :16], B),
        lambda x: functional.linear(x, W.reshape(4, 54)[:, :16], B),
    ),
    "matmul": (ROWS, lambda n, x: n.add_matmul(x, x, transpose_b=True), lambda x: x @ x.mT),
    "attention": (
        ROWS, lambda n, x: n.add_attention(x, x, x, is_causal=True),
        lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    ),
    "softmax": (ROWS, lambda n, x: n.add_softmax(x, 1), lambda x: x.softmax(1)),
    "layer_norm": (
        ROWS, lambda n, x: n.add_layer_norm(x, bias=SIX.reshape(-1)[:16]),
        lambda x: functional.layer_norm(x, (16,), None, SIX.reshape(-1)[:16]),
    ),
    "reduce": (
        X, lambda n, x: n.add_reduce(x, "mean", [-1, 2], keepdim=True),
        lambda x: x.mean((2, 3), keepdim=True),
    ),
    "top_k": (
        ROWS, lambda n, x: n.add_top_k(x, 3, largest=False)[0],
        lambda x: x.topk(3, largest=False)[0],
    ),
    "gather": (
        ROWS, lambda n, x: n.add_gather(x, np.array([4, 0, 0]), axis=1), lambda x: x[:, [4, 0, 0]],
    ),
    "concat": (
        ROWS, lambda n, x: n.add_concat([x, x, ROWS.numpy()], -1),
        lambda x: torch.cat([x, x, ROWS], -1),
    ),
    "reshape": (ROWS, lambda n, x: n.add_reshape(x, (3, -1)), lambda x: x.reshape(3, -1)),
    "flatten": (X, lambda n, x: n.add_flatten(x, 2), lambda x: x.flatten(2)),
    "transpose": (ROWS, lambda n, x: n.add_transpose(x, (1, 0, -1)), lambda x: x.transpose(0, 1)),
    "slice": (ROWS, lambda n, x: n.add_slice(x, -1, 2, 4, 3), lambda x: x[..., 2:14:3]),
    "pad": (
        ROWS, lambda n, x: n.add_pad(x, (0, 1, 0), (0, 0, 2), 2.5),
        lambda x: functional.pad(x, (0, 2, 1, 0), value=2.5),
    ),
    "pointwise": (
        ROWS, lambda n, x: n.add_pointwise("mul(i0,sigmoid(i1))", x, x),
        lambda x: x * x.sigmoid(),
    ),
    "activation": (ROWS, lambda n, x: n.add_activation(x, "gelu"), functional.gelu),
    "elementwise": (ROWS, lambda n, x: n.add_elementwise(2, x, "sub"), lambda x: 2 - x),
    "cast": (ROWS, lambda n, x: n.add_cast(x, "int32"), lambda x: x.int()),
    "comparison": (ROWS, lambda n, x: n.add_pointwise("gt(i0,0.0)", x), lambda x: x > 0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_what_torch_computes(name: str) -> None:
    x, add, expected = CASES[name]
    network = torch2rt.Network()
    network.mark_output(add(network, network.add_input("x", x.shape, "float64")))
    verify(network.graph)
    found = run_network(network.graph, {"x": x})["output"]
    wanted = expected(x)
    assert found.dtype == wanted.dtype
    tolerance = 1e-6 if name == "batch_norm" else 1e-12  # its numbers are float32
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def lenet():
    path = Path(__file__).parents[2] / "examples" / "05_lenet_network.py"
    spec = importlib.util.spec_from_file_location("example_lenet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lenet_as_an_engine_from_its_file(tmp_path) -> None:
    example = lenet()
    weights = example.random_weights()
    engine = example.lenet(weights).build(
        profiles=[{"image": (2, 1, 28, 28)}], timing_cache=tmp_path / "t.jsonl"
    )
    engine.save(tmp_path / "lenet.engine")
    loaded = torch2rt.Engine.load(tmp_path / "lenet.engine")
    t = {name: torch.from_numpy(array) for name, array in weights.items()}
    for batch in (2, 5):
        image = torch.randn(batch, 1, 28, 28)
        y = functional.relu(functional.conv2d(image, t["conv1.weight"], t["conv1.bias"], 1, 2))
        y = functional.max_pool2d(y, 2)
        y = functional.relu(functional.conv2d(y, t["conv2.weight"], t["conv2.bias"]))
        y = functional.max_pool2d(y, 2).flatten(1)
        for name in ("fc1", "fc2", "fc3"):
            y = functional.linear(y, t[f"{name}.weight"], t[f"{name}.bias"])
            y = y if name == "fc3" else functional.relu(y)
        found = loaded.run({"image": image.numpy()})["probabilities"]
        torch.testing.assert_close(torch.from_numpy(found), y.softmax(1), rtol=1e-4, atol=1e-5)
    text = str(example.lenet(weights))
    assert "symbol batch in 1..64" in text
    assert "constant @conv1.weight: float32[6,1,5,5]" in text


def test_bf16_and_a_plan_for_the_smallest_size_without_profiles(tmp_path) -> None:
    network = torch2rt.Network(sizes={"n": (2, 9)})
    x = network.add_input("x", ("n", 8))
    network.mark_output(network.add_linear(x, np.ones((4, 8), np.float32), [1.0, 2, 3, 4]))
    engine = network.build(precision="bf16", timing_cache=tmp_path / "t.jsonl")
    assert [plan.symbols for plan in engine.plans] == [{"n": 2}]
    found = engine.run({"x": np.ones((3, 8), np.float32)})["output"]
    np.testing.assert_allclose(found, np.tile([9, 10, 11, 12], (3, 1)), rtol=1e-2)


def test_a_layer_that_does_not_fit_is_named() -> None:
    network = torch2rt.Network()
    x = network.add_input("x", ("batch", 3, 8, 8))
    with pytest.raises(DefinitionError, match=r"'conv1': convolution of .* needs 4 channels"):
        network.add_convolution(x, np.zeros((8, 4, 3, 3), np.float32), name="conv1")
    with pytest.raises(DefinitionError, match=r"no activation 'rely'; there are .*relu"):
        network.add_activation(x, "rely")
    with pytest.raises(DefinitionError, match="has no axis 4"):
        network.add_softmax(x, 4)
    with pytest.raises(DefinitionError, match="'float33': it is no dtype"):
        network.add_input("y", (1,), "float33")
    with pytest.raises(DefinitionError, match="'a b': it is no name of a size"):
        network.add_input("y", ("a b",))
    with pytest.raises(DefinitionError, match="it has no input"):
        network.add_pointwise("neg(1.0)")
    with pytest.raises(DefinitionError, match="no tensor is marked as an output"):
        network.build()
    network.mark_output(x, "y")
    with pytest.raises(DefinitionError, match="output 'y' exists already"):
        network.mark_output(x, "y")
    with pytest.raises(ConfigError, match="it needs calibration, which takes a model"):
        network.build(precision="int8")


def test_weights_of_8_bits(tmp_path) -> None:
    weights = torch.randn(24, 16)
    network = torch2rt.Network()
    x = network.add_input("x", (3, 16))
    network.mark_output(network.add_linear(x, weights.numpy()))
    engine = network.build(precision="int8_weights", timing_cache=tmp_path / "t.jsonl")
    assert engine.precision == "int8_weights"
    assert {constant.dtype.value for constant in engine.network.constants} >= {"int8"}
    image = torch.randn(3, 16)
    found = torch.from_numpy(engine.run({"x": image.numpy()})["output"])
    assert float((found - image @ weights.T).norm() / found.norm()) < 0.02
    pool = torch2rt.Network()
    pool.mark_output(pool.add_pooling(pool.add_input("x", (1, 2, 4, 4)), "max", 2))
    bare = pool.build(precision="int8_weights", timing_cache=tmp_path / "t.jsonl")
    assert bare.precision == "fp32"


def test_tensors_of_other_networks_and_names_that_are_taken_are_refused():
    network, other = torch2rt.Network("one"), torch2rt.Network("other")
    x, foreign = network.add_input("x", (2, 3)), other.add_input("x", (2, 3))
    with pytest.raises(DefinitionError, match="there is an input of this name already"):
        network.add_input("x", (4,))
    for use in (
        lambda: network.add_activation(foreign, "relu"), lambda: network.mark_output(foreign, "y"),
        lambda: network.add_elementwise(x, foreign, "add"),
    ):
        with pytest.raises(DefinitionError, match=r"float32\[2,3\] is a tensor of another network"):
            use()


@pytest.mark.parametrize(("profile", "reason"), [
    ({"x": (2, 4)}, r"input x has shape \(2, 4\), expected \(2, 3\)"),
    ({"x": (2,)}, "shorter"), ({"q": (2, 3)}, "it names q"), ({}, "it names "),
])
def test_profiles_that_do_not_fit_are_refused(profile, reason):
    network = torch2rt.Network("one")
    network.mark_output(network.add_activation(network.add_input("x", ("n", 3)), "relu"))
    with pytest.raises(ConfigError, match=rf"(?s)profiles=.*{reason}.*Give a shape for each input "
                       r"\(x: float32\[n,3\]\)"):
        network.build(profiles=[profile], timing_cache=TimingCache())
