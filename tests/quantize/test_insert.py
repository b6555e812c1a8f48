"""Where quantization goes: the layers, the tensors between them, the scales they share."""

import numpy as np
import pytest
import torch
from torch import nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.capture.export import capture
from torch2rt.lower import lower
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.text import text
from torch2rt.network.verify import verify
from torch2rt.passes.base import Log
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.insert import insert_quantization, quantize_weight
from torch2rt.quantize.table import Range


class Table(dict):
    edited = ()

    def range(self, name):
        return self.get(name)

    def is_edited(self, name):
        return name in self.edited


def network_of(model: nn.Module, x: torch.Tensor) -> Network:
    network = lower(capture(model.eval(), (x,), {})).network
    optimize(network, merge_siblings=False)
    return network


def table_of(network: Network, x: torch.Tensor) -> tuple[Table, torch.Tensor]:
    table = Table()

    def see(name, value):
        table[name] = Range(max(float(value.abs().max()), 1e-6), bool(value.min() >= 0))

    see(next(iter(network.inputs.values())).name, x)
    outputs = run_network(
        network, dict(zip(network.inputs, [x], strict=True)),
        observe=lambda layer, _, results: [
            see(o.name, r) for o, r in zip(layer.outputs, results, strict=True)
            if r.is_floating_point()
        ],
    )
    return table, next(iter(outputs.values()))


def quantized(
    model: nn.Module, x: torch.Tensor, target: str = "cpu", **options
) -> tuple[Network, float, Log]:
    """The network in 8 bits, its relative error, and the log."""
    network = network_of(model, x)
    table, want = table_of(network, x)
    for name in options.pop("without", ()):
        del table[name]
    log = Log()
    insert_quantization(network, table, target=target, log=log, **options)
    verify(network)
    optimize(network, target=target)
    got = next(iter(run_network(network, dict(zip(network.inputs, [x], strict=True))).values()))
    return network, float((got - want).norm() / want.norm()), log


def dtypes(network: Network, kind: str) -> list[str]:
    return [layer.output.dtype.value for layer in network.layers if layer.kind.name == kind]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.stem(x).relu(), 2)
        y = self.b(self.a(x).relu())
        x = (x + y).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(("target", "stored"), [("cpu", "uint8"), ("cuda", "int8")])
def test_a_residual_block_stays_in_bytes(target, stored):
    torch.manual_seed(0)
    network, error, log = quantized(Block(), torch.randn(2, 3, 12, 12), target)
    assert dtypes(network, "convolution")[:2] == [stored, stored]
    assert dtypes(network, "pool") == [stored]
    assert [layer.kind.name for layer in network.layers] == [
        "pointwise", "convolution", "pool", "convolution", "convolution", "reduce", "matmul",
    ]
    last = network.layers[4]
    assert "mul(to_float32(i3)" in last.epilogue.text
    assert last.epilogue_inputs[2].dtype.value == stored
    assert error < 0.03
    assert [fired.rule for fired in log.fired].count("quantize") == 4


class Stream(nn.Module):
    """A residual stream, as transformers have: a norm reads what is added later."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        x = self.a(x)
        return self.c(self.norm(x + self.b(self.norm(x))))


def test_a_residual_that_a_float_layer_reads_stays_float():
    torch.manual_seed(2)
    network, error, _ = quantized(Stream(), torch.randn(4, 8))
    products = [layer for layer in network.layers if layer.kind.name == "matmul"]
    assert [layer.output.dtype.value for layer in products] == ["float32"] * 3
    assert all(layer.inputs[0].dtype.is_integer for layer in products)
    assert products[1].epilogue_inputs[-1].dtype is DType.FLOAT32
    assert error < 0.03


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.c = nn.Conv2d(12, 6, 1)

    def forward(self, x):
        parts = [self.a(x), self.b(x) * 3, nn.functional.max_pool2d(x, 3, 1, 1)]
        return self.c(torch.cat(parts, 1))


def test_parts_of_a_concat_share_a_scale():
    torch.manual_seed(1)
    network, error, _ = quantized(Branches(), torch.randn(1, 4, 8, 8))
    assert dtypes(network, "concat") == ["int8"]
    assert error < 0.05
    scales = [
        layer.kind.expression.text for layer in network.layers if layer.kind.name == "pointwise"
    ]
    assert len(scales) == 1  # of the input, which a pooling brings into the concat


def pooled_scale(edited: dict[str, float], without: tuple[str, ...] = ()) -> float | None:
    """The scale of a tensor that a pooling hands on, None where it is not quantized."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))
    x = torch.randn(1, 3, 8, 8)
    network = network_of(model, x)
    table, _ = table_of(network, x)
    table.update((name, Range(threshold, False)) for name, threshold in edited.items())
    table.edited = tuple(edited)
    for name in without:
        del table[name]
    insert_quantization(network, table, target="cuda", fold=False)
    found = [t for t in network.constants if t.name == "0.scale"]
    return float(found[0].data) * 127 if found else None


def test_a_threshold_that_a_user_edited_counts_for_all_that_share_it():
    assert pooled_scale({}) > 0.5
    assert pooled_scale({"0": 0.25}) == pytest.approx(0.25)
    assert pooled_scale({"1": 0.125}) == pytest.approx(0.125)
    assert pooled_scale({"0": 0.25, "1": 0.5}) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["0", "1"])
def test_a_line_that_a_user_deleted_leaves_all_that_share_its_scale_in_float(name):
    assert pooled_scale({}, without=(name,)) is None


def test_depthwise_groups_and_products():
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 12, 1, groups=4), nn.Flatten(),
        nn.Linear(12 * 36, 7),
    )
    network, error, _ = quantized(model, torch.randn(2, 8, 8, 8))
    assert dtypes(network, "matmul") == ["float32"]
    assert all(
        layer.inputs[0].dtype in (DType.INT8, DType.UINT8) for layer in network.layers
        if layer.kind.name in ("convolution", "matmul")
    )
    assert error < 0.03


def test_an_override_keeps_a_layer_float():
    network, _, log = quantized(
        Block(), torch.randn(2, 3, 12, 12),
        overrides=lambda layer: "fp32" if "stem" in layer.where else "int8",
    )
    first = next(layer for layer in network.layers if layer.kind.name == "convolution")
    assert first.inputs[0].dtype is DType.FLOAT32
    assert first.inputs[1].dtype is DType.FLOAT32
    assert first.output.dtype is DType.UINT8
    assert log.rejected["quantize", first.name].reason == "it is to be fp32"


def test_a_tensor_without_a_range_keeps_its_readers_float():
    network, _, log = quantized(Block(), torch.randn(2, 3, 12, 12), without=["x"])
    assert "no range is known of x" in [r.reason for r in log.rejected.values()]
    assert dtypes(network, "convolution")[1:2] == ["uint8"]


def test_an_output_that_others_read_stays_float():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.a(x)
            return self.b(y), y

    x = torch.randn(1, 3, 4, 4)
    network, _, _ = quantized(Two(), x)
    assert [tensor.dtype.value for tensor in network.outputs.values()] == ["float32"] * 2


def test_a_second_insertion_changes_nothing():
    x = torch.randn(1, 3, 12, 12)
    network = network_of(Block(), x)
    table, _ = table_of(network, x)
    insert_quantization(network, table, target="cpu")
    once = text(network)
    insert_quantization(network, table, target="cpu")
    assert text(network) == once


def test_weights_have_a_scale_per_channel():
    weight = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
    weight[2] = 0
    stored, scale = quantize_weight(weight, 0)
    assert scale.shape == (5, 1, 1, 1)
    assert scale[2] == 1
    assert not stored[2].any()
    assert np.abs(stored[[0, 1, 3, 4]]).max(axis=(1, 2, 3)).tolist() == [127] * 4
    np.testing.assert_allclose(stored * scale, weight, atol=float(scale[[0, 1, 3, 4]].max()) / 2)


def test_tiny_weights_are_zeros():
    stored, scale = quantize_weight(np.full((2, 3), 1e-38, np.float32), 0)
    assert not stored.any()
    assert np.isfinite(scale).all()


def test_dead_channels_and_a_constant_input():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        model[0].weight[1:3] = 0
        model[0].bias[:] = -1.0
    network, _, _ = quantized(model, torch.zeros(1, 3, 8, 8))
    outputs = run_network(network, {next(iter(network.inputs)): torch.zeros(1, 3, 8, 8)})
    assert all(bool(torch.isfinite(value).all()) for value in outputs.values())
