"""Layers that stay in float for their error: found, kept in the table, and shown."""

import dataclasses

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.reference.executor import run_network
from torch2rt.build.timing_cache import TimingCache
from torch2rt.capture.export import capture
from torch2rt.engine.archive import engine_to_bytes
from torch2rt.lower import lower
from torch2rt.network.copy import copy_network
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.calibrator import Observations, observe_batches, table_of
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.float_layers import enough_of, layers_in_float, without_needless
from torch2rt.quantize.insert import insert_quantization
from torch2rt.quantize.table import CalibrationTable


class Sum(nn.Module):
    """The outlier's layer reads a range that 8 bits do not serve; the others are at ease."""

    def __init__(self):
        super().__init__()
        self.first, self.hard, self.last = (nn.Linear(24, 24) for _ in range(3))

    def forward(self, x):
        y = self.first(x).tanh()
        wide = torch.cat([y[:, :1] * 2000.0, y[:, 1:]], 1)
        return self.last(self.hard(wide).tanh())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = Sum().eval()
    with torch.no_grad():
        made.hard.weight[:, 0] *= 1e-4
    return made


@pytest.fixture(scope="module")
def batches():
    return list(torch.randn(48, 24, generator=torch.Generator().manual_seed(1)).split(8))


@pytest.fixture(scope="module")
def calibrated(model, batches):
    network = lower(capture(model, (batches[0],), {})).network
    optimize(network, merge_siblings=False)
    inputs = {next(iter(network.inputs)): torch.cat(batches)}
    observations = Observations()
    observe_batches(network, [inputs], observations)
    return network, table_of(network, observations, method="minmax", fingerprint=""), inputs


def error(network, table, inputs, in_float):
    quantized = copy_network(network)
    insert_quantization(
        quantized, table, target="cpu",
        overrides=lambda layer: "fp32" if layer.output.name in in_float else "int8",
    )
    (got,), (want,) = (run_network(n, inputs).values() for n in (quantized, network))
    return float(((got - want).norm(dim=1) / want.norm(dim=1)).square().mean().sqrt())


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_layer_that_loses_most_stays_in_float(calibrated, target):
    network, table, inputs = calibrated
    assert error(network, table, inputs, ()) > 0.1
    found = layers_in_float(network, table, inputs, target=target, max_error=0.03)
    assert list(found) == ["hard"]
    assert found["hard"] > -20.0
    assert error(network, table, inputs, found) <= 0.03


def test_none_does_where_the_error_is_small_enough(calibrated):
    network, table, inputs = calibrated
    assert layers_in_float(network, table, inputs, target="cpu", max_error=2.0) == {}


def test_all_do_where_nothing_less_is_good_enough(calibrated):
    network, table, inputs = calibrated
    found = layers_in_float(network, table, inputs, target="cpu", max_error=0.0)
    assert set(found) == {"first", "hard", "last"}


@pytest.mark.parametrize("needed", ["a", "bn", "n", "gh", "", "abcdefghijklmn"])
def test_few_more_than_the_layers_that_are_needed_stay_in_float(needed):
    """Wherever they are in the order: one of little noise, as estimated, may be what counts."""
    tried = []

    def is_within(names):
        tried.append(names)
        return set(needed) <= set(names)

    order = "abcdefghijklmn"
    found = without_needless(enough_of(order, is_within), is_within)
    assert set(needed) <= set(found)
    assert len(found) <= len(needed) + 1
    assert len(tried) < 3 * len(order)


def convert(model, batches, **options):
    defaults = {
        "precision": "int8", "threads": 1, "progress": False, "tune_budget_s": 0,
        "timing_cache": TimingCache(), "calibration": batches, "calibration_method": "minmax",
    }
    return torch2rt.convert(model, batches[0], **(defaults | options))


def off(rt, model, batches):
    x = torch.cat(batches)
    with torch.no_grad():
        want = model(x)
        return float((rt(x) - want).norm() / want.norm())


@pytest.fixture(scope="module")
def made(model, batches):
    """A converted module, and its engine's bytes before it has run."""
    rt = convert(model, batches)
    return rt, engine_to_bytes(rt.engine)


@pytest.fixture(scope="module")
def table(made):
    return made[0].calibration_table


def test_int8_keeps_what_loses_too_much_in_float(made, model, batches, tmp_path):
    rt, data = made
    assert list(rt.calibration_table.floats) == ["hard"]
    assert off(rt, model, batches) < 0.03
    assert "layers in float for their error: 1" in rt.report()
    assert "hard" not in [row["layer"] for row in rt.engine.report["quantized"]]
    rt.calibration_table.save(tmp_path / "table.json")
    again = convert(model, batches, calibration=tmp_path / "table.json")
    assert again.calibration_table.floats == rt.calibration_table.floats
    assert engine_to_bytes(again.engine) == data


@pytest.mark.parametrize(
    "options", [{"max_drop": 2.0, "verify": False}, {"precision": {"*": "int8"}, "verify": False}]
)
def test_8_bits_wherever_they_can_be_for_who_wants_them(model, batches, options):
    rt = convert(model, batches, **options)
    assert rt.calibration_table.floats == {}
    assert len(rt.engine.report["quantized"]) == 3
    assert off(rt, model, batches) > 0.1


def test_a_dict_of_precisions_is_followed_where_the_table_has_layers_in_float(
    table, model, batches
):
    rt = convert(model, batches, calibration=table, precision={"*": "int8"}, verify=False)
    assert len(rt.engine.report["quantized"]) == 3


def test_a_merged_table_has_the_layers_of_both(table):
    assert table.merge(table).floats == table.floats
    assert table.with_method("mse").floats == {}


def test_a_line_of_the_table_can_be_deleted_and_another_added(table, model, batches, tmp_path):
    edited = dataclasses.replace(table, floats={"last": -40.0})
    edited.save(tmp_path / "edited.json")
    rt = convert(model, batches, calibration=tmp_path / "edited.json", verify=False)
    assert [row["layer"] for row in rt.engine.report["quantized"]] == ["first", "hard"]
    unknown = dataclasses.replace(table, floats={"middle": -40.0})
    with pytest.raises(CalibrationError, match="middle"):
        convert(model, batches, calibration=unknown)


@pytest.mark.parametrize("floats", [["hard"], {"hard": "much"}, {"hard": None}])
def test_layers_in_float_of_a_damaged_table_are_refused(table, floats):
    data = table.to_json()
    with pytest.raises(CalibrationError, match="float"):
        CalibrationTable.from_json({**data, "floats": floats})


@pytest.mark.parametrize("value", [-0.1, "much", True, float("nan")])
def test_a_bound_that_is_none_is_refused(model, batches, value):
    with pytest.raises(torch2rt.errors.ConfigError, match="max_drop"):
        convert(model, batches, max_drop=value)


def test_a_table_has_decided_which_layers_stay_in_float(table, model, batches):
    with pytest.raises(torch2rt.errors.ConfigError, match="max_drop"):
        convert(model, batches, calibration=table, max_drop=0.1)
