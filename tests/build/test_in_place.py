"""Close rivals race in the whole plan, and what wins there is in the engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend, Reference

from torch2rt.backends.spec import LayerSpec
from torch2rt.build.builder import build_engine
from torch2rt.build.timing_cache import TimingCache
from torch2rt.engine.engine import Engine
from torch2rt.errors import DeviceError
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.tensor import TensorType

ONE, TWO, THREE = (f"any.fake.{name}" for name in ("one", "two", "three"))


def network(depth: int = 3) -> Network:
    """Convolutions alike, each with a weight of its own."""
    made = Network()
    x = made.add_input("x", TensorType((2, 4, 2, 2), DType.FLOAT32))
    for number in range(depth):
        weight = np.random.default_rng(number).standard_normal((4, 4, 1, 1), np.float32)
        constant = made.add_constant(f"w{number}", weight)
        kind = Convolution((1, 1), (0, 0), (0, 0), (1, 1), 1)
        x = made.add(kind, [x, constant], name=f"conv{number}").output
    made.add_output("y", x)
    return made


def backend(run_us: Any, times_us: dict[str, Any] | None = None, **options: Any) -> FakeBackend:
    times_us = times_us or {ONE: 1000.0, TWO: 1010.0, THREE: 1200.0}
    tactics = [Reference(name, overwrites=False, **options) for name in (ONE, TWO, THREE)]
    return FakeBackend(tactics, times_us=times_us, run_us=run_us)


def prefers(name: str, gain: float = 0.9) -> Any:
    """Plans take less with each step of this tactic."""
    return lambda tactics: 3000.0 * gain ** tactics.count(name)


def tactics(engine: Engine) -> list[str]:
    return [step.tactic for step in engine.plans[0].steps]


def build(device: FakeBackend, cache: TimingCache | None = None, **options: Any) -> Engine:
    cache = TimingCache() if cache is None else cache
    return build_engine(network(), [{}], device, cache, **options)


def test_a_rival_that_makes_the_plan_faster_wins_for_all_layers_alike() -> None:
    assert tactics(build(backend(prefers(TWO)))) == [TWO] * 3


def test_a_rival_that_does_not_loses() -> None:
    assert tactics(build(backend(prefers(ONE)))) == [ONE] * 3


def test_less_than_the_noise_changes_nothing() -> None:
    assert tactics(build(backend(prefers(TWO, 0.999)))) == [ONE] * 3


def test_slow_rivals_do_not_race() -> None:
    device = backend(prefers(THREE))
    assert tactics(build(device)) == [ONE] * 3
    assert not any(THREE in run for run in device.runs)


def test_light_plans_do_not_race() -> None:
    device = backend(prefers(TWO), {ONE: 10.0, TWO: 10.1, THREE: 12.0})
    assert tactics(build(device)) == [ONE] * 3
    assert device.runs == []


def test_layers_that_weigh_little_do_not_race() -> None:
    def time_us(spec: LayerSpec, rest: float = 1000.0) -> float:
        return 10.0 if spec.name == "small" else rest

    made = network()
    small = Convolution((2, 2), (0, 0), (0, 0), (1, 1), 1)
    weight = made.add_constant("w", np.ones((4, 4, 2, 2), np.float32))
    y = made.add(small, [made.outputs["y"], weight], name="small").output
    made.add_output("z", y)
    device = backend(prefers(TWO), {ONE: time_us, TWO: lambda s: 1.01 * time_us(s), THREE: 9e9})
    engine = build_engine(made, [{}], device, TimingCache())
    found = {step.layer: step.tactic for step in engine.plans[0].steps if step.layer}
    assert found == {"conv0": TWO, "conv1": TWO, "conv2": TWO, "small": ONE}


def test_a_second_build_races_nothing_and_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "times.jsonl"
    first = build(backend(prefers(TWO)), TimingCache(path))
    device = backend(prefers(ONE))  # what it would find now is another matter
    second = build(device, TimingCache(path))
    assert device.runs == []
    assert tactics(second) == tactics(first) == [TWO] * 3


def test_nothing_races_after_the_deadline() -> None:
    device = backend(prefers(TWO))
    assert tactics(build(device, budget_s=0.0)) != [TWO] * 3
    assert device.runs == []


def test_memory_that_is_short_costs_the_race_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    device = backend(prefers(TWO))

    def refuse(run: Any) -> float:
        raise DeviceError(device="fake", reason="out of memory", remedy="none")

    monkeypatch.setattr(device, "time_run_us", refuse)
    assert tactics(build(device)) == [ONE] * 3


def test_the_engine_holds_nothing_of_those_that_lost() -> None:
    device = backend(prefers(TWO))
    engine = build(device)
    assert {key[0] for key in engine._prepared} == {TWO}


def test_it_computes_the_same() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 2, 2)).astype(np.float32)
    (got,) = build(backend(prefers(TWO))).run({"x": x}).values()
    (want,) = build(backend(prefers(ONE))).run({"x": x}).values()
    np.testing.assert_allclose(got, want, rtol=1e-6)
