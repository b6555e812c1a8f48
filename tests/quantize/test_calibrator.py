"""Calibration of networks: what is observed, what is left out, what stops it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from torch2rt.capture.export import capture
from torch2rt.lower import lower
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.best import best_table, output_error
from torch2rt.quantize.calibrate import (
    Calibration,
    calibrate,
    calibration_from_options,
    wide_tensors,
)
from torch2rt.quantize.calibrator import (
    Observations,
    observable_names,
    observe_batches,
    table_of,
)
from torch2rt.quantize.errors import CalibrationError, NonFiniteError
from torch2rt.quantize.fingerprint import network_fingerprint
from torch2rt.quantize.loader import CalibrationLoader
from torch2rt.quantize.observers import counted_here
from torch2rt.quantize.thresholds import METHODS


class Net(nn.Module):
    """Convolution, batch norm, residual, pooling, reshape and a matmul."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.block(y) + y)
        return self.head(nn.functional.max_pool2d(y, 2).flatten(1))


class Captured:
    """A model as calibration sees it."""

    def __init__(self, model, *inputs):
        graph = capture(model.eval(), inputs, {})
        self.spec = graph.call_spec
        self.network = lower(graph, name="n").network
        self.fingerprint = network_fingerprint(self.network)
        optimize(self.network, merge_siblings=False)

    def calibrate(self, source, **options):
        request = calibration_from_options(
            source, options.pop("method", "minmax"), options.pop("batches", None),
            options.pop("table", None),
        )
        return calibrate(request, self.network, self.spec, self.fingerprint, **options)


def seeded(model_class, *arguments):
    torch.manual_seed(0)
    return model_class(*arguments).eval()


@pytest.fixture(scope="module")
def net():
    return seeded(Net)


@pytest.fixture(scope="module")
def captured(net):
    return Captured(net, torch.randn(2, 3, 8, 8))


def batches(count=3, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.zeros(size)) for _ in range(count)
    ]


def test_every_float_tensor_has_the_range_that_the_model_shows(net, captured):
    data = batches()
    table = captured.calibrate(data)
    assert set(table.rows) == set(observable_names(captured.network))
    assert table.samples == 12
    x = torch.cat([images for images, _ in data])
    with torch.no_grad():
        stem = torch.relu(net.norm(net.stem(x)))
        block = torch.relu(net.block(stem) + stem)
    for name, value in (("x", x), ("stem", stem), ("block", block), ("head", net(x).detach())):
        seen = counted_here(value).histogram
        row = table.rows[name]
        assert row.minimum == pytest.approx(float(value.min()), rel=1e-5)
        assert row.maximum == pytest.approx(float(value.max()), rel=1e-5)
        assert row.threshold == pytest.approx(float(value.abs().max()), rel=1e-5)
        assert row.negatives == pytest.approx(float((value < 0).float().mean()), abs=1e-3)
        assert row.seen.histogram.total == seen.total
        assert abs(row.seen.histogram.counts - seen.counts).sum() < 0.01 * seen.total
    assert table.range("stem").is_nonnegative
    assert not table.range("x").is_nonnegative


def test_what_only_moves_elements_has_the_range_of_its_input(captured):
    table = captured.calibrate(batches())
    moved = [layer for layer in captured.network.layers if layer.kind.name == "reshape"]
    assert moved
    for layer in moved:
        assert table.rows[layer.output.name] == table.rows[layer.inputs[0].name]


def test_batches_of_any_size_in_any_order_give_one_table(captured):
    data = batches(4)
    whole = (torch.cat([images for images, _ in data]), torch.zeros(16))
    wanted = captured.calibrate([whole], method="entropy")
    for source in (data, data[::-1], [*data[:3], (data[3][0][:1],), (data[3][0][1:],)]):
        found = captured.calibrate(source, method="entropy")
        for name, row in wanted.rows.items():
            assert found.rows[name].threshold == pytest.approx(row.threshold, rel=2e-3)
            assert found.rows[name].seen.histogram.total == row.seen.histogram.total
            assert found.samples == 16


def test_calibration_goes_on_from_a_table(captured):
    data = batches(4)
    wanted = captured.calibrate(data)
    first = captured.calibrate(data[:2])
    both = captured.calibrate(data[2:], table=first)
    assert both == wanted
    assert both.samples == 16
    edited = first.with_threshold("x", 1.25)
    assert captured.calibrate(data[2:], table=edited).range("x").threshold == 1.25
    assert captured.calibrate(data[:2]).merge(captured.calibrate(data[2:])) == wanted


def test_only_so_many_batches_are_taken(captured):
    assert captured.calibrate(batches(5), batches=2) == captured.calibrate(batches(5)[:2])


def test_a_bar_shows_batches(captured, capfd):
    captured.calibrate(batches(2), progress=True)
    assert "calibrate n" in capfd.readouterr().err


@pytest.mark.parametrize(("bad", "word"), [(float("nan"), "NaN"), (float("inf"), "an infinity")])
def test_input_that_is_no_number_is_named_with_its_batch(captured, bad, word):
    data = batches()
    data[1][0][0, 0, 0, 0] = bad
    with pytest.raises(NonFiniteError, match=rf"calibration, batch 2: tensor 'x' \(input at the "
                       rf"call\) holds {word}, .* Look at what the loader gives there"):
        captured.calibrate(data)


class Overflows(nn.Module):
    def __init__(self):
        super().__init__()
        self.fine = nn.Linear(4, 4)
        self.huge = nn.Linear(4, 4, bias=False)
        nn.init.constant_(self.huge.weight, 3e38)

    def forward(self, x):
        return self.huge(torch.tanh(self.fine(x)) + 9)


def test_a_layer_that_overflows_is_named_by_its_module():
    captured = Captured(Overflows(), torch.randn(2, 4))
    with pytest.raises(NonFiniteError, match=r"tensor 'huge' \(matmul at huge\) holds an infinity"):
        captured.calibrate([torch.randn(2, 4)])


class Masked(nn.Module):
    """Attention scores with a mask of -inf, which is right: its softmax is finite."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(4, 6)

    def forward(self, x, keep):
        scores = self.scores(x).masked_fill(keep == 0, float("-inf"))
        return (torch.softmax(scores.cumsum(-1), -1), torch.softmax(scores, -1))


def test_a_mask_of_infinities_is_left_out_where_the_outputs_are_numbers():
    class Alone(Masked):
        def forward(self, x, keep):
            return torch.softmax(super().forward(x, keep)[1].log() * 1.0, -1)

    keep = torch.ones(2, 6)
    keep[:, 4:] = 0
    captured = Captured(seeded(Alone), torch.randn(2, 4), keep)
    table = captured.calibrate([(torch.randn(2, 4), keep)])
    missing = set(observable_names(captured.network)) - set(table.rows)
    assert missing
    assert all(np.isfinite(row.maximum) for row in table.rows.values())
    table.check_fits(captured.fingerprint, observable_names(captured.network))


class Odd(nn.Module):
    """A dead channel, a dead ReLU, a constant and zeros."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        nn.init.zeros_(self.conv.weight)
        nn.init.constant_(self.conv.bias, -1.0)
        self.partly = nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.partly.weight[1] = 0
            self.partly.bias[1] = 0

    def forward(self, x):
        dead = torch.relu(self.conv(x))
        constant = self.conv(x * 0) * 3
        return dead + self.partly(x), constant


@pytest.mark.parametrize("method", METHODS)
def test_dead_layers_and_constants_get_sensible_rows(method):
    captured = Captured(seeded(Odd), torch.randn(2, 3, 4, 4))
    table = captured.calibrate([torch.randn(2, 3, 4, 4)], method=method)
    assert all(row.threshold > 0 for row in table.rows.values())
    notes = {row.note: row.threshold for row in table.rows.values() if row.note}
    assert notes["always zero"] == 1.0
    assert "constant" in notes


def test_a_model_in_half_precision_is_calibrated_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(torch.bfloat16)
    captured = Captured(model, torch.randn(2, 4, dtype=torch.bfloat16))
    table = captured.calibrate([torch.randn(3, 4, dtype=torch.bfloat16)])
    assert table.samples == 3
    with pytest.raises(CalibrationError, match=r"is torch\.float32, expected bfloat16"):
        captured.calibrate([torch.randn(3, 4)])


# ---- fingerprints and tables of other models -----------------------------------------------


def test_a_fingerprint_is_the_models_and_not_the_sizes(net, captured):
    again = Captured(net, torch.randn(5, 3, 8, 8))
    assert again.fingerprint == captured.fingerprint
    graph = capture(net, (torch.randn(2, 3, 8, 8),), {}, dynamic_shapes={"x": {0: "n"}})
    assert network_fingerprint(lower(graph, name="other").network) == captured.fingerprint
    layers, weights = captured.fingerprint.split("-")
    other = Captured(seeded(Net).apply(lambda m: m), torch.randn(2, 3, 8, 8))
    assert other.fingerprint == captured.fingerprint
    changed = seeded(Net)
    with torch.no_grad():
        changed.head.bias[0] += 1e-3
    assert Captured(changed, torch.randn(2, 3, 8, 8)).fingerprint.split("-") != [layers, weights]
    assert Captured(changed, torch.randn(2, 3, 8, 8)).fingerprint.split("-")[0] == layers


def test_a_table_is_taken_as_it_is_and_that_of_another_model_is_refused(captured, tmp_path):
    table = captured.calibrate(batches())
    path = tmp_path / "table.json"
    table.save(path)
    assert captured.calibrate(table) is table
    assert captured.calibrate(path) == captured.calibrate(str(path)) == table
    other = dataclasses.replace(table, fingerprint="0-0")
    other.save(path)
    with pytest.raises(CalibrationError, match=r"table\.json: it is of another model \(the names "
                       r"are the same"):
        captured.calibrate(path)
    with pytest.raises(CalibrationError, match="it is of another model"):
        captured.calibrate(batches(), table=other)


def test_a_row_that_was_deleted_leaves_its_tensor_out(captured):
    table = captured.calibrate(batches())
    rows = {name: row for name, row in table.rows.items() if name != "stem"}
    assert captured.calibrate(dataclasses.replace(table, rows=rows)).range("stem") is None


# ---- methods and what calibration is for beside int8 ---------------------------------------


def test_best_is_the_method_of_least_error(captured):
    table = captured.calibrate(batches())
    errors = dict.fromkeys(METHODS, 2.0) | {"percentile": 0.5}
    assert best_table(table, lambda one: errors[one.method]).method == "percentile"
    assert best_table(table, lambda one: 1.0).method == METHODS[0]


def test_best_holds_the_last_batch_out(captured):
    given = []

    def evaluate(held):
        given.append([int(inputs["x"].shape[0]) for inputs in held])
        return lambda table: {"mse": 0.1}.get(table.method, 0.2)

    data = [*batches(3), batches(1, size=7)[0]]
    table = captured.calibrate(data, method="best", evaluate=evaluate)
    assert (table.method, table.samples, given) == ("mse", 12, [[7]])
    lone = captured.calibrate(data[:1], method="best", evaluate=evaluate)
    assert lone.samples == 4


def test_the_error_of_a_table_is_less_for_better_ranges(captured):
    data = batches()
    table = captured.calibrate(data)
    held = [{"x": data[0][0]}]
    error = output_error(captured.network, held, target="cpu", overrides=lambda layer: "int8")
    good, bad = error(table), error(table.with_threshold("stem", 0.05))
    assert 0 < good < 0.1 < bad
    floats = output_error(captured.network, held, target="cpu", overrides=lambda layer: "fp32")
    assert floats(table) < 1e-6


def test_tensors_near_the_end_of_float16_are_told():
    class Grows(nn.Module):
        def forward(self, x):
            return torch.softmax(torch.sigmoid(x) * 60000, -1)

    captured = Captured(Grows(), torch.randn(2, 4))
    observations = Observations()
    observe_batches(captured.network, [{"x": torch.full((2, 4), 50000.0)}], observations)
    table = table_of(captured.network, observations, method="minmax", fingerprint="f")
    assert "x" in wide_tensors(table)
    assert not wide_tensors(captured.calibrate([torch.randn(2, 4) - 9]))


def test_options_are_checked_together():
    from torch2rt.errors import ConfigError

    assert calibration_from_options(None, "entropy", None, None) is None
    made = calibration_from_options(batches(), "percentile:99.9", 3, None)
    assert isinstance(made, Calibration)
    assert isinstance(made.loader, CalibrationLoader)
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match=r"calibration_batches=.* it counts batches"):
            calibration_from_options(batches(), "mse", bad, None)
    with pytest.raises(ConfigError, match=r"calibration_table='int' .* it is no calibration table"):
        calibration_from_options(batches(), "mse", None, 3)
    with pytest.raises(ConfigError, match=r"calibration_method='mean' .* 'mse'"):
        calibration_from_options(batches(), "mean", None, None)
    with pytest.raises(CalibrationError, match=r"calibration, loader: a value of type int"):
        calibration_from_options(3, "mse", None, None)
