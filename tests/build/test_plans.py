"""Whole plans on a fake device: views in runs, streams, and what happens where tactics refuse."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_backend import Compile, FakeBackend, Reference, allowed_order
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks

from torch2rt import expression as ex
from torch2rt.backends.reference.executor import run_network
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.build.builder import build_engine
from torch2rt.build.on_demand import plan_on_demand
from torch2rt.build.timing_cache import TimingCache
from torch2rt.build.workers import WorkerPool
from torch2rt.engine.engine import Engine
from torch2rt.engine.plan import Plan
from torch2rt.layers.concat import Concat
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType

F32 = DType.FLOAT32
fuzz = settings(max_examples=40, deadline=None, derandomize=True, database=None)


# ---- random networks ----------------------------------------------------------------------------


@st.composite
def branched(draw: st.DrawFn) -> Network:
    """Convolutions, sums, concats, slices and reshapes over [2, c, 2, 2], most of c in fours."""
    network = Network()
    tensors = [network.add_input("x", TensorType((2, 8, 2, 2), F32))]
    for _ in range(draw(st.integers(2, 14))):
        x = draw(st.sampled_from(tensors[-5:]))
        channels = int(x.shape[1])  # type: ignore[call-overload]
        steps = ["conv", "conv", "sum", "concat", "concat", "slice", "reshape"]
        step = draw(st.sampled_from(steps))
        if step == "conv":
            count = draw(st.sampled_from([4, 8, 8, 3]))
            weight = np.random.default_rng(count).integers(-2, 3, (count, channels, 1, 1))
            constant = network.add_constant("w", weight.astype(np.float32) / 4)
            kind = Convolution((1, 1), (0, 0), (0, 0), (1, 1), 1)
            tensors.append(network.add(kind, [x, constant]).output)
        elif step == "sum":
            same = [t for t in tensors if t.shape == x.shape]
            parts = [x, draw(st.sampled_from(same))]
            kind = Pointwise(ex.parse_expression("add(i0,i1)"), F32)
            tensors.append(network.add(kind, parts).output)
        elif step == "concat" and channels <= 32:
            parts = draw(st.lists(st.sampled_from(tensors[-4:]), min_size=2, max_size=3))
            parts = [t for t in parts if t.shape[2:] == x.shape[2:]] or [x]
            tensors.append(network.add(Concat(1), parts).output)
        elif step == "slice":
            starts = draw(st.sampled_from([s for s in (0, 4, 8, 1) if s < channels]))
            size = draw(st.sampled_from([s for s in (4, 8, 2, 1) if s <= channels - starts]))
            kind = Slice((0, starts, 0, 0), (2, size, *x.shape[2:]), (1,) * 4)
            tensors.append(network.add(kind, [x]).output)
        elif step == "reshape":
            shape = (2, channels, 4, 1) if x.shape[2] == 2 else (2, channels, 2, 2)
            tensors.append(network.add(Reshape(shape), [x]).output)
    network.add_output("y", tensors[-1])
    if draw(st.booleans()):
        network.add_output("z", draw(st.sampled_from(tensors)))
    return network


def build(network: Network, backend: FakeBackend, **options: object) -> Engine:
    return build_engine(network, [{}], backend, TimingCache(), **options)


def check(engine: Engine, network: Network) -> None:
    """Twice, so that what one run leaves in memory is garbage to the next."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        inputs = {
            name: rng.standard_normal([int(d) for d in tensor.shape]).astype(np.float32)
            for name, tensor in network.inputs.items()
        }
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        wanted = run_network(network, given)
        for name, result in engine.run(inputs).items():
            np.testing.assert_allclose(result, wanted[name].numpy(), rtol=1e-5, atol=1e-6)


@fuzz
@given(network=branched(), takes_runs=st.booleans(), streams=st.sampled_from([1, 2, 4]),
       seed=st.integers(0, 3))
def test_random_networks_run_in_any_allowed_order(
    network: Network, takes_runs: bool, streams: int, seed: int
) -> None:
    backend = FakeBackend(
        [Reference("any.fake.reference", takes_runs=takes_runs)], seed=seed, max_streams=streams,
        times_us={"any.fake.reference": 20.0}, plan_times_us={1: 9.0, 2: 1.0, 3: 1.0, 4: 1.0},
    )
    check(build(network, backend), network)


@fuzz
@given(network=networks(), seed=st.integers(0, 3))
def test_other_networks_do_too(network: Network, seed: int) -> None:
    backend = FakeBackend(
        [Reference("any.fake.reference")], seed=seed, max_streams=3,
        times_us={"any.fake.reference": 20.0}, plan_times_us={1: 9.0, 2: 1.0, 3: 1.0},
    )
    check(build(network, backend), network)


# ---- views in runs ------------------------------------------------------------------------------


def images(name: str, **options: object) -> Reference:
    """A tactic for channels-last images alone."""
    return Reference(name, takes_plain=False, **options)


def inception(batch: int = 2) -> Network:
    """Two convolutions side by side, a concat, a pointwise layer, a slice, a pointwise layer."""
    network = Network()
    x = network.add_input("x", TensorType((batch, 8, 4, 4), F32))
    parts = [_relu(network, _convolve(network, x, 8)), _convolve(network, x, 4)]
    joined = _relu(network, network.add(Concat(1), parts).output)
    kind = Slice((0, 4, 0, 0), (batch, 8, 4, 4), (1,) * 4)
    network.add_output("y", _relu(network, network.add(kind, [joined]).output))
    return network


def _convolve(network: Network, x: Tensor, count: int) -> Tensor:
    weight = np.random.default_rng(count).standard_normal((count, x.shape[1], 1, 1))
    constant = network.add_constant("w", weight.astype(np.float32))
    kind = Convolution((1, 1), (0, 0), (0, 0), (1, 1), 1)
    return network.add(kind, [x, constant]).output


def _relu(network: Network, x: Tensor) -> Tensor:
    return network.add(Pointwise(ex.parse_expression("relu(i0)"), F32), [x]).output


def pitches(engine: Engine) -> list[tuple[int, int]]:
    return [(t.spec.run, t.spec.pitch) for t in engine.plans[0].tensors if not t.spec.is_dense]


def test_concats_and_slices_of_channels_move_nothing() -> None:
    engine = build(inception(), FakeBackend([images("any.fake.reference")]))
    check(engine, inception())
    assert engine.plans[0].viewed == ("concat", "slice")
    assert sorted(pitches(engine)) == [(4, 12), (8, 12), (8, 12)]


def patches() -> Network:
    """An image's pixels as a sequence behind a token, and one more use of the image."""
    network = Network()
    x = network.add_input("x", TensorType((2, 8, 4, 4), F32))
    token = network.add_input("token", TensorType((2, 1, 8), F32))
    image = _convolve(network, x, 8)
    flat = network.add(Reshape((2, 8, 16)), [image]).output
    sequence = network.add(Transpose((0, 2, 1)), [flat]).output
    joined = network.add(Concat(1), [_relu(network, token), sequence]).output
    network.add_output("y", _relu(network, joined))
    network.add_output("z", _relu(network, image))
    return network


def test_what_becomes_a_sequence_is_written_where_the_sequence_is_wanted() -> None:
    engine = build(patches(), FakeBackend([images("any.fake.reference")]))
    check(engine, patches())
    assert engine.plans[0].viewed == ("reshape", "transpose", "concat")
    assert (128, 136) in pitches(engine)


def test_a_plan_with_runs_survives_its_json() -> None:
    engine = build(inception(), FakeBackend([images("any.fake.reference")]))
    plan = engine.plans[0]
    assert type(plan).from_json(plan.to_json()) == plan


def test_a_slower_tactic_that_takes_runs_replaces_one_that_does_not() -> None:
    backend = FakeBackend(
        [images("any.fake.dense", takes_runs=False), images("any.fake.runs")],
        times_us={"any.fake.dense": 5.0, "any.fake.runs": 6.0},
    )
    engine = build(inception(), backend)
    check(engine, inception())
    assert engine.plans[0].viewed == ("concat", "slice")
    used = {step.layer: step.tactic for step in engine.plans[0].steps}
    assert used["convolution:1"] == used["pointwise"] == used["pointwise:2"] == "any.fake.runs"
    assert used["convolution"] == used["pointwise:1"] == "any.fake.dense"


def test_a_view_that_costs_more_than_its_copy_is_given_up() -> None:
    backend = FakeBackend(
        [images("any.fake.dense", takes_runs=False), images("any.fake.runs")],
        times_us={"any.fake.dense": 5.0, "any.fake.runs": 8.0},
    )
    engine = build(inception(), backend)
    check(engine, inception())
    # Two producers lose 6 us to spare a copy of 5; one reader loses 3.
    assert engine.plans[0].viewed == ("slice",)


def test_a_tactic_that_fails_with_runs_is_not_asked_again() -> None:
    refusing = images(
        "any.fake.refusing", refuses=lambda spec: any(not t.is_dense for t in spec.outputs)
    )
    engine = build(inception(), FakeBackend([refusing]))
    check(engine, inception())
    assert engine.plans[0].viewed == ("slice",)
    assert pitches(engine) == [(8, 12)]


def test_the_output_of_a_network_is_dense() -> None:
    network = Network()
    x = network.add_input("x", TensorType((2, 8, 4, 4), F32))
    y = _relu(network, x)
    network.add_output("y", network.add(Slice((0, 4, 0, 0), (2, 4, 4, 4), (1,) * 4), [y]).output)
    engine = build(network, FakeBackend([Reference("any.fake.reference")]))
    check(engine, network)
    assert engine.plans[0].viewed == ()


def siblings(batch: int = 2) -> Network:
    """A merged convolution, the end of which begins a concat, and more of it behind that."""
    network = Network()
    x = network.add_input("x", TensorType((batch, 8, 4, 4), F32))
    merged = _convolve(network, x, 20)
    parts = [
        network.add(Slice((0, start, 0, 0), (batch, size, 4, 4), (1,) * 4), [merged]).output
        for start, size in ((0, 8), (8, 4), (12, 8))
    ]
    ends = [parts[2], _convolve(network, parts[0], 12), _convolve(network, parts[1], 4)]
    network.add_output("y", _relu(network, network.add(Concat(1), ends).output))
    return network


def test_what_ends_one_tensor_begins_another() -> None:
    engine = build(siblings(), FakeBackend([images("any.fake.reference")]))
    check(engine, siblings())
    assert engine.plans[0].viewed == ("slice", "slice:1", "slice:2", "concat")
    # Rows of 20 and of 24 channels overlap by 8.
    assert set(pitches(engine)) == {(20, 36), (8, 36), (4, 36), (12, 36), (24, 36)}


def test_tensors_are_not_joined_where_that_costs_more_than_a_copy() -> None:
    def time_us(spec: LayerSpec) -> float:
        if spec.kind.name == "concat":
            return 6.0
        return 20.0 if any(tensor.run == 24 for tensor in spec.inputs) else 5.0

    backend = FakeBackend(
        [images("any.fake.reference")], times_us={"any.fake.reference": time_us}
    )
    engine = build(siblings(), backend)
    check(engine, siblings())
    assert engine.plans[0].viewed == ("slice", "slice:1", "concat")
    assert set(pitches(engine)) == {(8, 20), (4, 20), (8, 24), (12, 24), (4, 24)}


# ---- streams ------------------------------------------------------------------------------------


def branches(count: int = 3, depth: int = 2) -> Network:
    network = Network()
    x = network.add_input("x", TensorType((1, 8, 4, 4), F32))
    ends = []
    for _ in range(count):
        y = x
        for _ in range(depth):
            y = _convolve(network, y, 8)
        ends.append(y)
    network.add_output("y", network.add(Concat(1), ends).output)
    return network


@pytest.mark.parametrize(
    ("plan_times_us", "expected"), [({1: 9.0, 3: 5.0}, 3), ({1: 5.0, 3: 9.0}, 1), ({}, 1)]
)
def test_streams_are_used_where_the_clock_says_so(
    plan_times_us: dict[int, float], expected: int
) -> None:
    backend = FakeBackend(
        [Reference("any.fake.reference")], max_streams=4, plan_times_us=plan_times_us,
        times_us={"any.fake.reference": 20.0},
    )
    engine = build(branches(), backend)
    check(engine, branches())
    assert engine.plans[0].stream_count == expected


def test_a_chain_stays_on_one_stream() -> None:
    backend = FakeBackend(
        [Reference("any.fake.reference")], max_streams=4, plan_times_us={1: 9.0, 2: 1.0},
        times_us={"any.fake.reference": 20.0},
    )
    assert build(branches(1, 6), backend).plans[0].stream_count == 1


def test_the_fake_device_finds_a_missing_wait() -> None:
    orders = {tuple(allowed_order([0, 1, 0], [(), (), ()], random.Random(i))) for i in range(20)}
    assert orders == {(0, 1, 2), (0, 2, 1), (1, 0, 2)}


# ---- checks, estimates, budgets -----------------------------------------------------------------


def _spoil(result: np.ndarray) -> None:
    result.reshape(-1)[-1] += 1.0 if result.ndim < 4 else 0.0
    result[..., -1] *= 1.5


def test_a_wrong_candidate_never_wins(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend(
        [Reference("any.fake.wrong", change=_spoil), Reference("any.fake.right")],
        times_us={"any.fake.wrong": 1.0, "any.fake.right": 2.0}, checks_candidates=True,
    )
    engine = build(inception(), backend)
    check(engine, inception())
    assert {step.tactic for step in engine.plans[0].steps} == {"any.fake.right"}
    assert "any.fake.wrong for convolution" in caplog.text
    assert "is not used: error" in caplog.text
    assert "any.fake.wrong" not in backend.timed


def test_candidates_that_expect_to_be_slow_are_not_timed() -> None:
    backend = FakeBackend([
        Reference("any.fake.fast", guess_us=1.0), Reference("any.fake.near", guess_us=2.5),
        Reference("any.fake.slow", guess_us=4.0), Reference("any.fake.unknown"),
    ])
    build(inception(), backend)
    assert set(backend.timed) == {"any.fake.fast", "any.fake.near", "any.fake.unknown"}


def test_without_time_everything_is_estimated_and_a_later_build_goes_on() -> None:
    backend = FakeBackend([Reference("any.fake.a"), Reference("any.fake.b")])
    cache = TimingCache()
    engine = build_engine(inception(), [{}], backend, cache, budget_s=0.0)
    check(engine, inception())
    assert backend.timed == []
    assert engine.plans[0].untuned == len(engine.plans[0].steps)
    again = build_engine(inception(), [{}], backend, cache)
    assert again.plans[0].untuned == 0
    assert backend.timed
    count = len(backend.timed)
    assert build_engine(inception(), [{}], backend, cache, budget_s=0.0).plans[0].untuned == 0
    assert len(backend.timed) == count


# ---- compiled kernels ---------------------------------------------------------------------------


def compiling(folder: Path, workers: int = 1) -> FakeBackend:
    return FakeBackend(
        [Reference("any.fake.compiled", job=Compile(str(folder)), takes_plain=False)],
        version="compiler 1", compile_workers=workers,
    )


def any_batch() -> Network:
    network = Network()
    x = network.add_input("x", TensorType((symbol("n"), 8, 4, 4), F32))
    network.symbols["n"] = (1, 64)
    network.add_output("y", _relu(network, _convolve(network, x, 4)))
    return network


def test_a_later_build_compiles_nothing_and_its_engine_holds_the_kernels(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    compiled = []
    for _ in range(2):
        cache = TimingCache(tmp_path / "cache" / "times.jsonl")
        engine = build_engine(any_batch(), [{"n": 2}], compiling(runs), cache)
        compiled.append(len(list(runs.iterdir())))
        assert len(engine.weights.blobs) == len(engine.plans[0].steps)
    assert compiled[0] == compiled[1] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_layers_that_differ_in_a_factor_are_timed_once_and_compiled_each(
    tmp_path: Path, workers: int
) -> None:
    network = Network()
    x = network.add_input("x", TensorType((2, 8), F32))
    for factor in ("0.25", "1.5", "37.0", "1.5"):
        x = network.add(Pointwise(ex.parse_expression(f"mul(i0,{factor})"), F32), [x]).output
    network.add_output("y", x)
    backend = compiling(tmp_path, workers)
    engine = build(network, backend)
    assert backend.timed.count("any.fake.compiled") == 1
    assert len(list(tmp_path.iterdir())) == 3
    check(engine, network)


class CountedPool(WorkerPool):
    runs = closed = 0

    def run(self, *arguments: Any, **named: Any) -> Any:
        self.runs += 1
        return super().run(*arguments, **named)

    def close(self) -> None:
        self.closed += 1
        super().close()


def test_builds_may_share_the_processes_that_compile(tmp_path: Path) -> None:
    with CountedPool(2) as pool:
        for name in ("first", "second"):
            folder, before = tmp_path / name, pool.runs
            folder.mkdir()
            build_engine(
                any_batch(), [{"n": 2}], compiling(folder, 2), TimingCache(), workers=pool
            )
            assert list(folder.iterdir())
            assert pool.runs > before
        assert pool.closed == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_plan_on_demand_compiles_only_what_the_engine_lacks(
    tmp_path: Path, workers: int
) -> None:
    backend = compiling(tmp_path, workers)
    engine = build_engine(any_batch(), [{"n": 2}], backend, TimingCache())
    before = len(list(tmp_path.iterdir()))
    engine.run({"x": np.zeros((2, 8, 4, 4), np.float32)})
    assert len(list(tmp_path.iterdir())) == before
    engine.run({"x": np.zeros((3, 8, 4, 4), np.float32)})
    assert len(list(tmp_path.iterdir())) == before + len(engine.plans[0].steps)
    assert "steps untuned" in engine.describe()


@pytest.mark.parametrize("is_reloaded", [False, True])
def test_a_plan_on_demand_leaves_out_what_failed_when_the_engine_was_tuned(
    tmp_path: Path, is_reloaded: bool
) -> None:
    wrong, right = Reference("any.fake.wrong", guess_us=0.1), Reference("any.fake.right", level=0)
    backend = FakeBackend([wrong, right], times_us={"any.fake.wrong": math.inf})
    engine = build_engine(any_batch(), [{"n": 2}], backend, TimingCache())
    if is_reloaded:
        plan = Plan.from_json(json.loads(json.dumps(engine.plans[0].to_json())))
        engine = Engine(engine.network, (plan,), backend, weights=engine.weights)
    plan = plan_on_demand(engine, {"n": 3})
    assert {step.tactic for step in plan.steps} == {"any.fake.right"}


class Mixed(Reference):
    """Writes channels last, from either layout."""

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        last = super().layouts(spec)[0]
        plain = (Layout.PLAIN, *last.inputs[1:])
        return [last, LayoutChoice(plain, last.outputs)]


def test_a_plan_on_demand_takes_layouts_that_worked_where_others_of_the_tactic_failed() -> None:
    mixed, slow = Mixed("any.fake.mixed"), Reference("any.fake.slow", level=0)
    backend = FakeBackend([mixed, slow], times_us={
        "any.fake.mixed": lambda spec: math.inf if spec.inputs[0].layout is Layout.PLAIN else 1.0,
    })
    engine = build_engine(any_batch(), [{"n": 2}], backend, TimingCache())
    taken = [step.tactic for step in engine.plans[0].steps]
    assert "any.fake.mixed" in taken
    assert [step.tactic for step in plan_on_demand(engine, {"n": 3}).steps] == taken
