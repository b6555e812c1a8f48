"""The noise of each layer: what its 8 bits alone do to the outputs."""

import pytest
import torch
from torch import nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.capture.export import capture
from torch2rt.lower import lower
from torch2rt.network.copy import copy_network
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.calibrator import Observations, observe_batches, table_of
from torch2rt.quantize.insert import insert_quantization
from torch2rt.quantize.sensitivity import noise_of_layers


@pytest.fixture(scope="module")
def made():
    """Three layers in a row, of which the second has a range ten times too short."""
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(16, 16), nn.Tanh())))
    x = torch.randn(8, 16)
    network = lower(capture(model.eval(), (x,), {})).network
    optimize(network, merge_siblings=False)
    inputs = {next(iter(network.inputs)): x}
    observations = Observations()
    observe_batches(network, [inputs], observations)
    table = table_of(network, observations, method="minmax", fingerprint="")
    products = [layer for layer in network.layers if layer.kind.name == "matmul"]
    table = table.with_threshold(products[1].inputs[0].name, 0.1)
    return network, table, inputs, [layer.name for layer in products]


def test_the_layer_that_loses_most_is_found(made):
    network, table, inputs, names = made
    noise = noise_of_layers(network, table, names, inputs, target="cpu")
    assert list(noise) == names
    assert max(noise, key=lambda name: noise[name]) == names[1]
    assert 0 < noise[names[0]] < 1e-3 < noise[names[1]]


def test_the_noise_is_that_of_a_network_with_one_layer_in_8_bits(made):
    network, table, inputs, names = made
    want = run_network(network, inputs)
    quantized = copy_network(network)
    insert_quantization(
        quantized, table, target="cpu",
        overrides=lambda layer: "int8" if layer.name == names[2] else "fp32",
    )
    got = run_network(quantized, inputs)
    error = sum(
        float(((got[name] - want[name]) ** 2).sum() / (want[name] ** 2).sum()) for name in want
    )
    noise = noise_of_layers(network, table, [names[2]], inputs, target="cpu")
    assert noise[names[2]] == pytest.approx(error, rel=1e-4)
