"""8 bits where they are faster: layer by layer, conversions counted, by times made up."""

import functools

import pytest
import torch
from fake_backend import FakeBackend, Reference
from torch import nn

import torch2rt
from torch2rt.backends.reference.executor import bind_symbols, run_network
from torch2rt.backends.spec import LayerSpec
from torch2rt.build.builder import build_engine
from torch2rt.build.timing_cache import TimingCache
from torch2rt.capture.export import capture
from torch2rt.config import BuildConfig
from torch2rt.lower import lower
from torch2rt.network.copy import copy_network
from torch2rt.network.dtype import DType
from torch2rt.passes.base import Log
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.calibrator import Observations, observe_batches, table_of
from torch2rt.quantize.choose import chooses_by_time, fastest_variant
from torch2rt.quantize.layer_times import LayerTimes
from torch2rt.quantize.mix import Mix
from torch2rt.quantize.overrides import parse_precision
from torch2rt.quantize.step_times import StepTimes
from torch2rt.quantize.steps import set_precision
from torch2rt.quantize.variants import Tried, Variants

X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Three convolutions, one after the other; no two are alike, as those share their times."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, n + 1, 3, padding=1) for n in (4, 5, 6))

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())


class Fork(nn.Module):
    """Two readers of one tensor."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 5, 3, padding=1)
        self.b, self.c = (nn.Conv2d(5, n, 3, padding=1) for n in (6, 7))

    def forward(self, x):
        y = self.a(x).relu()
        return self.b(y), self.c(y).tanh()


@functools.cache
def calibrated(model):
    """A model's network, its table and its shapes."""
    torch.manual_seed(0)
    network = lower(capture(model().eval(), (X,), {})).network
    optimize(network, merge_siblings=False)
    observations = Observations()
    observe_batches(network, [dict(zip(network.inputs, [X], strict=True))], observations)
    table = table_of(network, observations, method="minmax", fingerprint="")
    return network, table, [bind_symbols(network, dict.fromkeys(network.inputs, tuple(X.shape)))]


def variants_of(model, int8_us, float_us, other_us=1.0, plan_us=None):
    """Variants on a device where contractions take these times by their names."""
    network, table, symbols = calibrated(model)

    def time_us(spec: LayerSpec) -> float:
        if spec.kind.name != "convolution":
            return other_us
        is_int8 = spec.inputs[0].dtype in (DType.INT8, DType.UINT8)
        return (int8_us if is_int8 else float_us)[spec.name]

    backend = FakeBackend(
        [Reference("any.fake.reference")], times_us={"any.fake.reference": time_us},
        plan_times_us=plan_us or {},
    )
    config = BuildConfig(precision="int8", overrides=parse_precision("int8"))
    return Variants(
        network, config, table, Log(), "cpu", symbols,
        lambda network, log, precision, table: build_engine(
            network, symbols, backend, TimingCache(), precision=precision
        ),
    )


def times(a, b, c):
    return {"a": float(a), "b": float(b), "c": float(c)}


@pytest.mark.parametrize(
    ("int8_us", "float_us", "want"),
    [
        (times(10, 10, 10), times(90, 90, 90), "abc"),
        (times(90, 90, 90), times(10, 10, 10), ""),
        (times(10, 90, 10), times(90, 10, 90), "ac"),
        (times(90, 10, 90), times(10, 90, 10), "b"),
        (times(90, 90, 10), times(10, 10, 90), "c"),
    ],
)
def test_each_layer_gets_what_is_faster(int8_us, float_us, want):
    best = fastest_variant(variants_of(Chain, int8_us, float_us))
    assert best.tried.layers == set(want)
    stored = {
        layer.name for layer in best.engine.network.layers
        if layer.kind.name == "convolution" and layer.inputs[0].dtype is not DType.FLOAT32
    }
    assert stored == set(want)
    assert best.engine.precision == ("int8" if want else "fp32")


@pytest.mark.parametrize(("conversion_us", "want"), [(5.0, "b"), (500.0, "")])
def test_conversions_between_layers_are_counted(conversion_us, want):
    """One of two readers gains 40 us by 8 bits, which the other must be spared."""
    made = variants_of(
        Fork, times(90, 10, 90), times(10, 50, 10), other_us=conversion_us
    )
    best = fastest_variant(made)
    assert best.tried.layers == set(want)
    points = best.engine.report["choice"]["points"]
    assert sum(point["is_chosen"] for point in points) == 1
    assert all(point["time_us"] >= best.tried.time_us for point in points)


def test_what_a_mix_shows_of_conversions_and_reformats_decides_the_next():
    """8 bits in b alone gain 40 us, until a mix has shown what the border costs."""
    network, _, symbols = calibrated(Fork)
    times = LayerTimes(network, set("abc"), symbols, 4)
    times.observe(StepTimes({"a": 50.0, "b": 10.0, "c": 90.0}, 1e6, 1.0), set("abc"))
    times.observe(StepTimes({"a": 10.0, "b": 50.0, "c": 10.0}, 1e6, 1.0), set())
    assert times.fastest() == {"b"}
    for shown in ("restored", "restored.reformat", "uint8.reformat"):
        mixed = StepTimes({"a": 10.0, "b": 10.0, "c": 10.0, f"a.{shown}": 45.0})
        times.observe(mixed, {"b"})
        assert times.fastest() == set()
        times.observe(StepTimes({"a": 10.0, "b": 10.0, "c": 10.0, f"a.{shown}": 35.0}), {"b"})
        assert times.fastest() == {"b"}
    assert times.predicted_us({"b"}) == pytest.approx(65)
    assert times.predicted_us(set()) == pytest.approx(70)
    assert times.predicted_us(set("abc")) == pytest.approx(150)


def test_siblings_that_were_merged_are_decided_together():
    network, _, symbols = calibrated(Fork)
    times = LayerTimes(network, set("abc"), symbols, 4)
    times.observe(StepTimes({"a": 50.0, "b": 10.0, "c": 50.0}, 1e6, 1.0), set("abc"))
    times.observe(StepTimes({"a": 10.0, "b-c": 30.0}, 1e6, 1.0), set())
    assert times.fastest() == set()
    assert times.of_layer("b").float_us == pytest.approx(15, abs=0.1)
    times.observe(StepTimes({"a": 10.0, "b-c": 90.0}, 1e6, 1.0), set())
    assert times.fastest() == {"b", "c"}


def test_the_report_says_what_each_layer_got_and_why():
    made = variants_of(Chain, times(10, 10, 40), times(90, 90, 10))
    rows = fastest_variant(made).engine.report["choice"]["layers"]
    assert [(row["layer"], row["precision"]) for row in rows] == [
        ("a", "int8"), ("b", "int8"), ("c", "fp32")
    ]
    for row, us in zip(rows, [(10, 90), (10, 90), (40, 10)], strict=True):
        assert (row["int8_us"], row["float_us"]) == pytest.approx(us, abs=2)
    assert {row["why"] for row in rows} == {"it is faster"}


@pytest.mark.parametrize(("float_us", "count"), [(85.0, 3), (89.5, 2)])
def test_a_mix_that_promises_nothing_is_not_built(float_us, count):
    """c alone is faster in float, by more or by less than a hundredth of all."""
    made = variants_of(Chain, times(10, 10, 90), times(90, 90, float_us), other_us=0.01)
    best = fastest_variant(made)
    assert len(best.engine.report["choice"]["points"]) == count
    assert best.tried.layers == set("ab" if count == 3 else "abc")


def test_whole_runs_decide_where_they_are_timed():
    """The steps say that 8 bits are faster; the device says that all take alike, so they stay."""
    made = variants_of(Chain, times(90, 90, 90), times(10, 10, 10), plan_us={1: 50.0})
    assert fastest_variant(made).tried.layers == set("abc")


def test_a_gain_within_the_noise_changes_nothing():
    first, second, third = (
        Tried(Mix(), frozenset(), us, StepTimes({})) for us in (100.0, 99.5, 90.0)
    )
    assert not second.is_faster_than(first)
    assert third.is_faster_than(second)


def test_a_dict_is_followed_and_a_time_budget_leaves_no_choice():
    table = object()
    free = BuildConfig(precision="int8", overrides=parse_precision("int8"))
    assert chooses_by_time(free, table)
    assert not chooses_by_time(free, None)
    ordered = BuildConfig(precision="int8", overrides=parse_precision({"*": "int8"}))
    assert not chooses_by_time(ordered, table)
    hasty = BuildConfig(
        precision="int8", overrides=parse_precision("int8"), tune_budget_s=1.0
    )
    assert not chooses_by_time(hasty, table)


@pytest.mark.parametrize("beside", ["fp16", "bf16", "tf32", "fp32"])
@pytest.mark.parametrize("layers", ["abc", "b", ""])
def test_mixes_beside_every_float_of_a_gpu_compute_the_model(beside, layers):
    network, table, _ = calibrated(Fork)
    want = run_network(network, dict(zip(network.inputs, [X], strict=True)))
    mixed = copy_network(network)
    config = BuildConfig(precision="int8", overrides=parse_precision("int8"))
    called = set_precision(mixed, config, table, Log(), "cuda", Mix(frozenset(layers), beside))
    assert called == ("int8" if layers else beside)
    operands = {
        layer.name: layer.inputs[0].dtype.value for layer in mixed.layers
        if layer.kind.name == "convolution"
    }
    float_dtype = {"fp16": "float16", "bf16": "bfloat16"}.get(beside, "float32")
    if layers:
        assert operands == {n: "int8" if n in layers else float_dtype for n in "abc"}
    else:
        assert set(operands.values()) == {float_dtype}
    got = run_network(mixed, dict(zip(network.inputs, [X], strict=True)))
    for name, value in want.items():
        assert got[name].dtype is value.dtype
        assert float((got[name] - value).norm() / value.norm()) < 0.03


def test_convert_reports_the_choice(tmp_path):
    torch.manual_seed(0)
    model = Chain().eval()
    cache = TimingCache(tmp_path / "timing.jsonl")
    options = {"calibration": [X, X], "threads": 1, "progress": False, "timing_cache": cache}
    rt = torch2rt.convert(model, precision="int8", **options)
    choice = rt.engine.report["choice"]
    assert {point["name"] for point in choice["points"]} >= {"int8 + fp32", "fp32"}
    assert "precision by time:" in rt.report()
    again = torch2rt.convert(model, precision="int8", **options)
    assert again.engine.report["choice"]["layers"] == choice["layers"]
    ordered = torch2rt.convert(model, precision={"a": "fp32", "*": "int8"}, **options)
    assert "choice" not in ordered.engine.report
    assert ordered.engine.precision == "int8"
