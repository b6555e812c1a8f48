"""convert() with calibration: one call, the table in the engine, and what is refused."""

import copy

import pytest
import torch
from needs import needs_onednn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torch2rt
from torch2rt.build.timing_cache import TimingCache
from torch2rt.engine.archive import engine_to_bytes
from torch2rt.errors import ConfigError
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.thresholds import METHODS


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.block = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.block(y) + y)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TimingCache(tmp_path_factory.mktemp("calibrated") / "timing.jsonl")


@pytest.fixture(scope="module")
def loader():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(22, 3, 8, 8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(22)), batch_size=4)


@pytest.fixture(scope="module")
def made(net, loader, cache):
    """A calibrated module, and its engine's bytes before it has run."""
    rt = convert(net, None, cache, calibration=loader)
    return rt, engine_to_bytes(rt.engine)


@pytest.fixture(scope="module")
def rt(made):
    return made[0]


def convert(model, inputs, cache, **options):
    defaults = {
        "precision": {"*": "int8"}, "threads": 1, "progress": False, "tune_budget_s": 0
    }
    return torch2rt.convert(model, inputs, timing_cache=cache, **(defaults | options))


def error(got, want):
    return float((got - want).norm() / want.norm())


def test_a_loader_alone_gives_an_int8_engine(rt, net, loader):
    images = next(iter(loader))[0]
    assert rt.engine.precision == "int8"
    assert 0 < error(rt(images), net(images).detach()) < 0.05
    assert rt(images[:1]).shape == (1, 5)
    table = rt.calibration_table
    assert table.samples == 22
    assert {"x", "stem", "block", "head"} <= set(table.rows)
    assert any(t.dtype.value == "int8" for t in rt.engine.network.constants)


def test_the_table_gives_the_same_engine_bit_for_bit(made, net, cache, loader, tmp_path):
    images = next(iter(loader))[0]  # the report tells the errors on the example inputs
    rt, wanted = made
    rt.calibration_table.save(tmp_path / "table.json")
    for source in (tmp_path / "table.json", str(tmp_path / "table.json"), rt.calibration_table):
        again = convert(net, images, cache, calibration=source)
        assert engine_to_bytes(again.engine) == wanted


def test_the_table_comes_back_from_a_saved_engine(rt, tmp_path):
    rt.save(tmp_path / "m.engine")
    loaded = torch2rt.load(tmp_path / "m.engine").calibration_table
    assert loaded == rt.calibration_table
    assert all(row.seen is None for row in loaded.rows.values())
    assert all(row.seen is not None for row in rt.calibration_table.rows.values())
    assert copy.deepcopy(rt).calibration_table == rt.calibration_table


def test_an_edited_threshold_reaches_the_engine(rt, net, cache, loader):
    images = next(iter(loader))[0]
    edited = rt.calibration_table.with_threshold("stem", 0.01)
    clipped = convert(net, images, cache, calibration=edited, verify=False)
    assert error(clipped(images), net(images).detach()) > 0.2
    assert clipped.calibration_table.range("stem").threshold == 0.01


def test_calibration_goes_on_from_a_table(net, cache, loader, tmp_path):
    batches, by = list(loader), {"calibration_method": "percentile"}
    whole = convert(net, None, cache, calibration=loader, **by)
    first = convert(net, None, cache, calibration=batches[:3], **by)
    first.calibration_table.save(tmp_path / "first.json")
    for before in (first.calibration_table, tmp_path / "first.json"):
        both = convert(net, None, cache, calibration=batches[3:], calibration_table=before, **by)
        assert both.calibration_table == whole.calibration_table


def test_methods_and_batches_are_options(rt, net, cache, loader):
    largest = convert(net, None, cache, calibration=loader, calibration_method="minmax",
                      calibration_batches=2).calibration_table
    assert (largest.method, largest.samples) == ("minmax", 8)
    assert all(r.threshold == r.seen.largest for r in largest.rows.values() if not r.note)


def test_best_chooses_a_method_by_error(net, cache, loader):
    table = convert(net, None, cache, calibration=loader, calibration_method="best")
    assert table.calibration_table.samples == 20
    assert table.calibration_table.method in METHODS


def test_a_model_without_inputs_and_loader_waits_for_its_first_call(rt, net, cache):
    later = convert(net, None, cache, calibration=rt.calibration_table)
    images = torch.randn(4, 3, 8, 8)
    assert error(later(images), net(images).detach()) < 0.1


def test_layers_may_keep_a_higher_precision(net, cache, loader):
    mixed = convert(net, None, cache, calibration=loader, precision={"stem": "fp32", "*": "int8"})
    constants = {t.name: t.dtype.value for t in mixed.engine.network.constants if t.rank == 4}
    assert sorted(constants.values()) == ["float32", "int8"]
    assert mixed.engine.precision == "int8"


def test_a_sub_module_is_calibrated_by_the_parents_batches(net, cache, loader):
    parent = nn.Sequential(nn.Tanh(), copy.deepcopy(net)).eval()
    images = next(iter(loader))[0]
    with torch.no_grad():
        want = parent(images)
        rt = torch2rt.swap(
            parent, "1", images, precision="int8", calibration=loader, threads=1, progress=False,
            timing_cache=cache,
        )
        assert error(parent(images), want) < 0.05
    assert rt.calibration_table.samples == 22
    assert rt.calibration_table.rows["x"].maximum <= 1.0


def test_a_table_of_another_model_is_refused(rt, cache):
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    with pytest.raises(CalibrationError, match=r"calibration, table: it is of another model "
                       r"\(tensors only it has: 'block', .*; tensors it lacks: '0'"):
        convert(other, torch.randn(4, 3, 8, 8), cache, calibration=rt.calibration_table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"calibration=None is not valid: precision=\"int8\" needs the ranges of tensors\. "
         r"Pass a DataLoader"),
        ({"precision": "fp32", "calibration": [torch.randn(4, 3, 8, 8)]},
         r"calibration='loader' is not valid: precision 'fp32' has no ranges to calibrate"),
        ({"precision": "bf16", "calibration": [torch.randn(4, 3, 8, 8)]}, "precision 'bf16' has"),
        ({"calibration": [torch.randn(4, 3, 8, 8)], "calibration_method": "kl"},
         r"calibration_method='kl' is not valid"),
    ],
)
@pytest.mark.parametrize("inputs", [torch.randn(4, 3, 8, 8), None])
def test_options_that_do_not_fit_are_refused(options, message, inputs, net, cache):
    with pytest.raises(ConfigError, match=message):
        convert(net, inputs, cache, **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "it gave no batch"), (iter([]), "A generator can be read only once"),
        (7, "a value of type int gives no batches"),
        ("none.json", r"none\.json: it cannot be read"),
        ([torch.randn(2, 4, 8, 8)], r"batch 1: input 'x' has shape \[2, 4, 8, 8\], expected"),
        ([torch.full((2, 3, 8, 8), torch.nan)], r"batch 1: tensor 'x' \(input at the call\) holds"),
    ],
)
def test_bad_data_is_a_clear_error(source, message, net, cache):
    with pytest.raises(CalibrationError, match=message):
        convert(net, torch.randn(4, 3, 8, 8), cache, calibration=source)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_runs_in_bytes_on_a_cpu_without_torch(dtype):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    model, x = model.eval().to(dtype), torch.randn(4, 3, 8, 8).to(dtype)
    rt = torch2rt.convert(
        model, x, precision={"*": "int8"}, calibration=[x], threads=1,
        timing_cache=TimingCache(), progress=False,
    )
    assert rt(x).dtype is dtype
    torch.testing.assert_close(rt(x).float(), model.float()(x.float()).detach(), rtol=0, atol=0.05)
    assert not rt.engine.needs_torch
