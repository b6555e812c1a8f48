"""Ranges by what the outputs suffer: outliers count where the outputs depend on them."""

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
from torch2rt.quantize.output_ranges import ranges_by_outputs

OUTLIER = 30.0


def calibrated(weight_of_outliers):
    """A linear layer that reads a column of outliers, one sample in ten, by such a weight."""
    torch.manual_seed(0)
    model = nn.Linear(40, 20).eval()
    with torch.no_grad():
        model.weight[:, 0] = weight_of_outliers
    x = torch.randn(40, 40)
    x[:, 0] = 0.0
    x[::10, 0] = OUTLIER
    network = lower(capture(model, (x,), {})).network
    optimize(network, merge_siblings=False)
    inputs = {next(iter(network.inputs)): x}
    observations = Observations()
    observe_batches(network, [inputs], observations)
    return network, table_of(network, observations, method="minmax", fingerprint=""), inputs


def error(network, table, inputs):
    quantized = copy_network(network)
    insert_quantization(quantized, table, target="cuda")
    (got,), (want,) = (run_network(n, inputs).values() for n in (quantized, network))
    return float(((got - want).norm(dim=1) / want.norm(dim=1)).square().mean())


@pytest.mark.parametrize(("weight", "is_clipped"), [(0.0, True), (1.0, False)])
def test_outliers_are_clipped_where_nothing_depends_on_them(weight, is_clipped):
    network, table, inputs = calibrated(weight)
    (name,) = inputs
    chosen = ranges_by_outputs(network, table, inputs, target="cuda")
    assert (chosen.rows[name].threshold < OUTLIER / 3) == is_clipped
    assert chosen.rows[name].is_edited is False
    best = min(
        error(network, table.with_method(method), inputs)
        for method in ("minmax", "percentile", "mse", "percentile:99")
    )
    assert error(network, chosen, inputs) <= 1.2 * best


def test_an_edited_threshold_stays():
    network, table, inputs = calibrated(0.0)
    (name,) = inputs
    edited = table.with_threshold(name, 123.0)
    chosen = ranges_by_outputs(network, edited, inputs, target="cuda")
    assert chosen.rows[name].threshold == 123.0


def test_without_histograms_ranges_stay():
    network, table, inputs = calibrated(0.0)
    bare = table.without_histograms()
    assert ranges_by_outputs(network, bare, inputs, target="cuda") == bare
