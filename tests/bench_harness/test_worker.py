import time
from pathlib import Path

import numpy as np
import pytest
from fakes import Right, linear, spec

from torch2rt.bench.contenders import load_contender
from torch2rt.bench.protocol import Build, Built, MakeReference, ReferenceMade, Turn
from torch2rt.bench.source import ModelSource
from torch2rt.bench.worker import build, make_reference, read_reference, run_turn, warm_up


def test_a_turn_makes_at_least_the_calls_asked_for() -> None:
    calls: list[None] = []
    done = run_turn(lambda: calls.append(time.sleep(0.002)), Turn(0.0, 5, 0.0), 0.0)
    assert done.calls == 5
    assert len(calls) == 5 + 1  # and one to warm up
    assert done.median_ms >= 2.0


def test_a_turn_lasts_at_least_as_long_as_asked_for() -> None:
    started = time.perf_counter()
    done = run_turn(lambda: time.sleep(0.001), Turn(0.03, 1, 0.01), 0.25)
    assert time.perf_counter() - started >= 0.04
    assert done.calls >= 1
    assert done.idle_cpu_s == 0.25


def test_short_calls_are_timed_in_groups() -> None:
    assert warm_up(lambda: None, 0.001) > 20
    assert warm_up(lambda: time.sleep(0.002), 0.0) == 1


@pytest.mark.parametrize("use_float64", [False, True])
def test_reference_is_the_models_output(tmp_path: Path, use_float64: bool) -> None:
    path = tmp_path / "reference.npz"
    source = ModelSource("factory", spec(linear), 5)
    answer = make_reference(MakeReference(source, str(path), 2, "cpu", use_float64))
    assert answer == ReferenceMade(batch=2)
    loaded = source.load()
    (expected,) = read_reference(path)
    assert expected.dtype == (np.float64 if use_float64 else np.float32)
    got = loaded.model(*loaded.args).detach().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_another_seed_is_another_model_and_shows_as_error(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    source = ModelSource("factory", spec(linear), 1)
    make_reference(MakeReference(source, str(path), 2, "cpu", use_float64=False))
    for seed, is_same in ((1, True), (2, False)):
        order = Build(
            ModelSource("factory", spec(linear), seed),
            spec(Right),
            "quick",
            "fp32",
            "cpu",
            2,
            str(path),
            str(tmp_path),
        )
        call, built = build(load_contender(spec(Right)), order)
        assert isinstance(built, Built)
        assert (built.error == 0.0) == is_same
        assert built.build_s >= Right.delays["quick"]
        assert call() is not None
