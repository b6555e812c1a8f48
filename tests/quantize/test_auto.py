"""precision="auto": the fastest mix within a budget, on data that calibration did not see."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.build.timing_cache import TimingCache
from torch2rt.errors import ConfigError, PrecisionError
from torch2rt.quantize.auto import best_within_budget, ladder, steps_between
from torch2rt.quantize.budget import DEFAULT_DROP, DEFAULT_ERROR, Budget, budget_from_options
from torch2rt.quantize.calibrate import Calibration
from torch2rt.quantize.errors import CalibrationError
from torch2rt.quantize.held_out import hold_out
from torch2rt.quantize.loader import CalibrationLoader
from torch2rt.quantize.metric import closeness
from torch2rt.quantize.mix import Mix
from torch2rt.quantize.step_times import StepTimes
from torch2rt.quantize.variants import Prepared, Tried, Variant


class FakeTimes:
    """Three layers that are faster in 8 bits, by different gains."""

    gains = {"a": 30.0, "b": 20.0, "c": 10.0}  # noqa: RUF012
    names = tuple(gains)

    def fastest(self, noise=None, price_us=0.0):
        noise = noise or dict.fromkeys(self.gains, 0.0)
        return frozenset(n for n, gain in self.gains.items() if gain > price_us * noise[n])

    def predicted_us(self, layers):
        return 100.0 - sum(self.gains[name] for name in layers)

    def units(self):
        return [(name,) for name in self.gains]

    def observe(self, steps, layers):
        """Nothing new."""

    def of_layer(self, name):
        return None


@dataclass
class FakeEngine:
    """What it is of, and the report."""

    beside: str
    layers: frozenset
    kind: str
    report: dict = field(default_factory=dict)


class FakeVariants:
    """Engines that are only a time: by their layers' gains, or ``times`` of a precision."""

    target = "cpu"
    beside = "fp32"

    def __init__(self, linear="", more_us=None, **times):
        self.times, self.more_us, self.linear = times, more_us or {}, frozenset(linear)
        self.made = []

    def prepared(self, mix):
        layers = frozenset("abc") if mix.layers is None else mix.layers
        if mix.precision == "int8_weights":
            layers &= self.linear
        return Prepared(mix, None, None, "", layers)

    def built(self, prepared):
        mix, layers = prepared.mix, prepared.layers
        self.made.append(mix)
        name = mix.precision if layers else mix.beside
        time_us = FakeTimes().predicted_us(layers) + self.more_us.get(name, 0.0)
        time_us = self.times.get(name, time_us)
        tried = Tried(mix, layers, time_us, StepTimes({}), mix.precision or "int8")
        return Variant(tried, FakeEngine(mix.beside, layers, mix.precision))


class FakeJudge:
    """A score that falls by the noise of the layers in 8 bits, and in bf16."""

    model_score = 1.0

    def __init__(self, lowest, noise, bf16=0.5, share=None):
        self.lowest, self.noise, self.bf16, self.share = lowest, noise, bf16, share or {}

    def score(self, engine):
        lost = sum(self.noise[name] for name in engine.layers)
        lost *= self.share.get(engine.kind, 1.0)
        return 1.0 - lost - self.bf16 * (engine.beside == "bf16")


def best_of(variants, judge, noise, kinds=("int8", "int8_weights")):
    return best_within_budget(variants, judge, kinds, lambda kind, names: noise)


def test_prices_of_noise_order_mixes_from_the_fastest_to_the_most_exact():
    noise = {"a": 0.5, "b": 0.001, "c": 0.01}
    mixes = ladder(FakeTimes(), noise)
    assert mixes[0] == set("abc")
    assert mixes[-1] == set()
    assert frozenset("bc") in mixes
    lost = [sum(noise[name] for name in mix) for mix in mixes]
    assert lost == sorted(set(lost), reverse=True)


def test_layers_come_one_by_one_by_their_gain_for_noise():
    noise = {"a": 0.5, "b": 0.001, "c": 0.01}
    steps = steps_between(FakeTimes(), noise, frozenset("abc"), frozenset())
    assert steps == [frozenset("abc"), frozenset("bc"), frozenset("b")]
    assert steps_between(FakeTimes(), noise, frozenset("ab"), frozenset("bc")) == [frozenset("abc")]
    assert steps_between(FakeTimes(), noise, frozenset("b"), frozenset("bc")) == []


def test_layers_without_noise_keep_8_bits_until_the_last_mix():
    mixes = ladder(FakeTimes(), dict.fromkeys("abc", 0.0))
    assert mixes == [frozenset("abc"), frozenset()]


@pytest.fixture
def fakes(monkeypatch):
    """Made-up times in place of measured ones."""
    monkeypatch.setattr("torch2rt.quantize.auto.layer_times", lambda *_: FakeTimes())
    monkeypatch.setattr("torch2rt.quantize.auto._report", lambda *_: {})


@pytest.mark.parametrize(
    ("lowest", "want"), [(0.4, "abc"), (0.9, "bc"), (0.995, "b"), (0.9999, "")]
)
def test_the_fastest_mix_within_the_budget_is_found(lowest, want, fakes):
    noise = {"a": 0.5, "b": 0.001, "c": 0.01}
    judge = FakeJudge(lowest, noise)
    best = best_of(FakeVariants(), judge, noise)
    assert best.tried.layers == set(want)
    assert judge.score(best.engine) >= lowest


def test_a_uniform_precision_that_is_faster_wins(fakes):
    judge = FakeJudge(0.9, dict.fromkeys("abc", 0.01), bf16=0.0)
    best = best_of(FakeVariants(bf16=5.0), judge, {})
    assert (best.tried.mix.beside, best.tried.layers) == ("bf16", frozenset())


def test_a_float_that_cannot_hold_a_weight_is_left_out(fakes, monkeypatch):
    def prepared(self, mix, prepared=FakeVariants.prepared):
        if mix.beside == "bf16":
            raise PrecisionError(
                precision="bf16", constant="w", layer="a", where="a", reason="it is too large",
                remedy="",
            )
        return prepared(self, mix)

    monkeypatch.setattr(FakeVariants, "prepared", prepared)
    judge = FakeJudge(0.9, dict.fromkeys("abc", 0.01))
    best = best_of(FakeVariants(), judge, {})
    assert best.tried.layers == set("abc")
    assert best.tried.mix.beside == "fp32"


def test_where_nothing_is_within_the_most_exact_is_given(fakes):
    noise = dict.fromkeys("abc", 0.01)
    best = best_of(FakeVariants(), FakeJudge(1.1, noise), noise)
    assert best.tried.mix == Mix(frozenset(), "fp32")


def test_weights_alone_in_8_bits_win_where_8_bits_lose_too_much(fakes):
    noise = {"a": 0.5, "b": 0.5, "c": 0.5}
    judge = FakeJudge(0.9, noise, share={"int8_weights": 0.01})
    variants = FakeVariants(linear="abc", more_us={"int8_weights": 25.0})
    best = best_of(variants, judge, noise)
    assert best.tried.mix == Mix(None, "fp32", "int8_weights")
    assert best.tried.label == "int8_weights + fp32"
    beside = [mix.beside for mix in variants.made if mix.precision == "int8_weights"]
    assert beside == ["fp32"]


def test_weights_beside_the_usual_float_and_the_fastest_within_the_budget(fakes):
    judge = FakeJudge(0.9, dict.fromkeys("abc", 0.01), bf16=0.05)
    variants = FakeVariants(linear="c", bf16=80.0)
    best_of(variants, judge, {})
    made = [mix.beside for mix in variants.made if mix.precision == "int8_weights"]
    assert made == ["fp32", "bf16"]


@pytest.mark.parametrize("kinds", [("int8", "int8_weights"), ("int8",)])
def test_without_linear_layers_no_engine_is_built_for_their_weights(kinds, fakes):
    noise = {"a": 0.5, "b": 0.001, "c": 0.01}
    variants = FakeVariants()
    best_of(variants, FakeJudge(0.9, noise), noise, kinds)
    assert not any(mix.precision == "int8_weights" for mix in variants.made)
    assert len(variants.made) == len({(mix.layers, mix.beside) for mix in variants.made})


FP8 = ("int8", "int8_weights", "fp8")


def test_float8_that_is_within_the_budget_and_faster_wins(fakes):
    noise = dict.fromkeys("abc", 0.5)
    judge = FakeJudge(0.9, noise, share={"fp8": 0.01})
    best = best_of(FakeVariants(), judge, noise, FP8)
    assert (best.tried.mix.precision, best.tried.layers) == ("fp8", set("abc"))
    assert best.tried.label == "fp8 + fp32"


def test_mixes_of_float8_are_tried_where_it_is_faster_but_loses_too_much(fakes):
    noise = {"a": 0.5, "b": 0.001, "c": 0.01}
    judge = FakeJudge(0.9, noise, share={"int8": 10.0})
    best = best_of(FakeVariants(), judge, noise, FP8)
    assert (best.tried.mix.precision, best.tried.layers) == ("fp8", set("bc"))
    assert best.tried.label == "2 x fp8 + fp32"


def test_float8_that_is_slower_is_built_once_and_no_more(fakes):
    noise = {"a": 0.5, "b": 0.001, "c": 0.01}
    variants = FakeVariants(more_us={"fp8": 70.0})
    best = best_of(variants, FakeJudge(0.9, noise), noise, FP8)
    assert best.tried.mix.precision == "int8"
    assert [mix for mix in variants.made if mix.precision == "fp8"] == [Mix(None, "fp32", "fp8")]


def test_a_device_without_float8_is_not_asked_for_it(fakes):
    variants = FakeVariants()
    best_of(variants, FakeJudge(0.0, dict.fromkeys("abc", 0.1)), {})
    assert "fp8" not in {mix.precision for mix in variants.made}


def test_so_many_engines_are_built_at_most(fakes):
    """As the module says: of three layers, 2 floats, 4 and 2 uniform ones, mixes of two kinds."""
    for lowest in (0.5, 0.9, 0.99, 0.995, 0.9999, 1.1):
        variants = FakeVariants(linear="abc", bf16=95.0)
        noise = {"a": 0.5, "b": 0.001, "c": 0.01}
        best_of(variants, FakeJudge(lowest, noise, bf16=0.0), noise, FP8)
        assert len(variants.made) <= 2 + 6 + 2 * (2 + 6 + 2)


# ---- what is held out -------------------------------------------------------------------------

BUDGET = Budget(None, 0.1)


def test_without_a_budget_nothing_is_held_out():
    calibration = Calibration(CalibrationLoader([1, 2]))
    assert hold_out(calibration, None) == (calibration, None)
    assert hold_out(None, BUDGET) == (None, None)


@pytest.mark.parametrize(
    ("count", "held"), [(2, [1]), (3, [2]), (4, [3]), (9, [3, 7])]
)
def test_every_fourth_batch_is_held_out_and_the_last_of_fewer(count, held):
    batches = [(torch.full((2, 3), float(i)), i) for i in range(count)]
    rest, out = hold_out(Calibration(CalibrationLoader(iter(batches))), BUDGET)
    seen = [batch[1] for batch in rest.loader.batches()]
    assert [batch[1] for batch in out.batches] == held
    assert seen == [i for i in range(count) if i not in held]


def test_no_more_is_held_out_than_memory_takes(monkeypatch):
    monkeypatch.setattr("torch2rt.quantize.held_out._MOST_BYTES", 30)
    batches = [{"x": torch.zeros(6)} for _ in range(16)]
    rest, out = hold_out(Calibration(CalibrationLoader(batches)), BUDGET)
    assert len(list(rest.loader.batches())) == 14
    assert len(out.batches) == 2


def test_the_limit_of_batches_counts_both():
    rest, out = hold_out(Calibration(CalibrationLoader(list(range(20))), batches=8), BUDGET)
    assert len(list(rest.loader.batches())) == 6
    assert len(out.batches) == 2


# ---- the budget -------------------------------------------------------------------------------


def test_budgets_have_defaults():
    assert budget_from_options("fp32", None, None, has_loader=False) is None
    assert budget_from_options("auto", None, None, has_loader=True).max_drop == DEFAULT_ERROR
    assert budget_from_options("auto", max, None, has_loader=True).max_drop == DEFAULT_DROP
    assert budget_from_options("auto", max, 0, has_loader=True).max_drop == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8", "metric": max}, r"metric=.* precision 'int8' has no budget"),
        ({"precision": "fp32", "max_drop": 0.1}, "max_drop=0.1 is not valid: precision 'fp32' has"),
        ({"precision": "auto", "calibration": None}, 'precision="auto" measures on data'),
        ({"precision": "auto", "metric": 3}, "metric=3 is not valid: it cannot be called"),
        ({"precision": "auto", "max_drop": -1}, "max_drop=-1 is not valid: it is how far"),
        ({"precision": "auto", "max_drop": True}, "max_drop=True is not valid"),
        ({"precision": "auto", "max_drop": float("nan")}, "max_drop=nan is not valid"),
    ],
)
def test_budgets_that_do_not_fit_are_refused(options, message):
    options = {"calibration": [torch.randn(2, 4), torch.randn(2, 4)], **options}
    with pytest.raises(ConfigError, match=message):
        torch2rt.convert(nn.Linear(4, 4), torch.randn(2, 4), progress=False, **options)


def test_closeness_counts_outputs_alike():
    wanted = [torch.tensor([3.0, 4.0]), torch.tensor([1, 2])]
    assert closeness(wanted, wanted) == 1.0
    off = closeness([torch.tensor([3.0, 4.5]), torch.tensor([1, 2])], wanted)
    assert off == pytest.approx(0.95)
    assert closeness([wanted[0], torch.tensor([1, 3])], wanted) == pytest.approx(0.75)
    assert closeness([torch.tensor([torch.nan, 0.0]), wanted[1]], wanted) < 0


# ---- convert ----------------------------------------------------------------------------------


class Net(nn.Module):
    """Two convolutions and a product; its output is a dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        y = self.b(self.a(x).relu()).relu()
        return {"logits": self.head(y.mean((2, 3)))}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def batches(net):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(4, 3, 16, 16, generator=generator) for _ in range(8)]
    with torch.no_grad():
        return [(x, net(x)["logits"].argmax(1)) for x in images]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TimingCache(tmp_path_factory.mktemp("auto") / "timing.jsonl")


def convert(net, batches, cache, **options):
    return torch2rt.convert(
        net, precision="auto", calibration=batches, timing_cache=cache, threads=1, progress=False,
        **options,
    )


def test_the_metric_sees_the_models_outputs_and_the_loaders_batches(net, batches, cache):
    seen = []

    def accuracy(outputs, batch):
        seen.append(batch)
        return (outputs["logits"].argmax(1) == batch[1]).float().mean()

    rt = convert(net, batches, cache, metric=accuracy, max_drop=0.2)
    assert {id(batch) for batch in seen} == {id(batches[3]), id(batches[7])}
    assert rt.calibration_table.samples == 24
    choice = rt.engine.report["choice"]
    assert "the metric of the model is 1 on 8 samples held out" in choice["budget"]
    chosen = next(point for point in choice["points"] if point["is_chosen"])
    assert chosen["is_within"]
    within = [point["time_us"] for point in choice["points"] if point["is_within"]]
    assert chosen["time_us"] <= 1.02 * min(within)
    times = [point["time_us"] for point in choice["points"]]
    assert times == sorted(times)
    assert "precision by time and accuracy: the metric" in rt.report()


def test_a_tight_budget_gives_float32(net, batches, cache):
    rt = convert(net, batches, cache, max_drop=1e-5)
    assert rt.engine.precision == "fp32"
    points = {p["name"]: p for p in rt.engine.report["choice"]["points"]}
    assert not points["bf16"]["is_within"]
    assert not points["int8 + fp32"]["is_within"]
    with torch.no_grad():
        want = net(batches[0][0])["logits"]
    assert torch.allclose(rt(batches[0][0])["logits"], want, atol=1e-5)


def test_a_metric_must_give_numbers(net, batches, cache):
    with pytest.raises(ConfigError, match="metric=nan is not valid: it returned no finite number"):
        convert(net, batches, cache, metric=lambda outputs, batch: float("nan"))
    with pytest.raises(ConfigError, match="metric=None is not valid: it returned no finite"):
        convert(net, batches, cache, metric=lambda outputs, batch: None)


def test_an_engine_without_a_number_is_beyond_the_budget(net, batches, cache):
    def metric(outputs, batch):
        calls.append(1)
        return float(outputs["logits"].mean()) if len(calls) <= 2 else float("nan")

    calls: list[int] = []
    rt = convert(net, batches, cache, metric=metric)
    choice = rt.engine.report["choice"]
    assert not any(point["is_within"] for point in choice["points"])
    assert "nothing that was tried is that good" in choice["budget"]


def test_one_batch_is_too_few(net, batches, cache):
    with pytest.raises(CalibrationError, match="it gave one only"):
        convert(net, batches[:1], cache)
