"""Suspect candidates run in another process first, and lose only themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tactic_testing import make_spec

from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Tactic, Unprepared
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.compile_ahead import CompileAhead
from torch2rt.build.first_run import RAN, FirstRun, broken
from torch2rt.build.workers import WorkerPool
from torch2rt.engine.weights import EngineWeights
from torch2rt.expression import parse_expression
from torch2rt.layers.concat import Concat
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType


class Suspicious(CpuBackend):
    """A CPU that trusts no tactic."""

    def is_suspect(self, tactic: Tactic) -> bool:
        return True


def pointwise() -> LayerSpec:
    kind = Pointwise(parse_expression("add(i0,1.0)"), DType.FLOAT32)
    return make_spec(kind, [torch.randn(3, 4)])


def joined() -> LayerSpec:
    """A concat with a constant."""
    return make_spec(Concat(0), [torch.randn(3, 4), torch.randn(5, 4)], constants=[1])


def tactic_of(spec: LayerSpec) -> Tactic:
    """The one by numpy."""
    found = CpuBackend(1).candidates(spec)[0]
    return next(tactic for tactic in found if ".numpy." in tactic.name)


def test_a_first_run_runs() -> None:
    spec = pointwise()
    assert FirstRun("cpu", tactic_of(spec).name, spec, {}, {}).run() == RAN
    spec = joined()
    arrays = {"c1": np.ones((5, 4), np.float32)}
    assert FirstRun("cpu", tactic_of(spec).name, spec, arrays, {}).run() == RAN


def test_a_first_run_that_fails_ends_its_process_alone() -> None:
    """A constant is missing: the job breaks off, as it does when a kernel faults."""
    good, bad = pointwise(), joined()
    jobs = {
        "good": FirstRun("cpu", tactic_of(good).name, good, {}, {}),
        "bad": FirstRun("cpu", tactic_of(bad).name, bad, {}, {}),
    }
    with WorkerPool(2) as pool:
        results = pool.run(jobs)
        assert results["good"].blob == RAN
        assert results["bad"].blob is None
        assert results["bad"].is_lost
        assert pool.run({"again": jobs["good"]})["again"].blob == RAN


def test_broken_candidates_are_named(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = pointwise(), joined()
    backend = Suspicious(1)

    class Forgetful(EngineWeights):
        """Prepares with one array and sends another, too small one to the worker."""

        sent = 0

        def array(self, name: str) -> np.ndarray:
            self.sent += 1
            return super().array(name)[: 5 if self.sent == 1 else 1]

    weights = Forgetful({"c1": np.ones((5, 4), np.float32)})
    with WorkerPool(2) as pool:
        ahead = CompileAhead(backend, weights, BlobCache(), pool)
        found = broken([(tactic_of(good), good), (tactic_of(bad), bad)], ahead)
        weights.sent = 0
        trusted = CompileAhead(CpuBackend(1), weights, BlobCache(), pool)
        assert broken([(tactic_of(bad), bad)], trusted) == {}
    assert list(found) == [1]
    assert "its first run failed" in found[1]
    assert tactic_of(bad).name in caplog.text


def test_a_tactic_that_refuses_is_no_broken_one() -> None:
    spec = pointwise()

    class Refusing(type(tactic_of(spec))):  # type: ignore[misc]
        def prepare(self, spec: LayerSpec, weights: object) -> object:
            raise Unprepared("not today")

    with WorkerPool(1) as pool:
        ahead = CompileAhead(Suspicious(1), EngineWeights({}), BlobCache(), pool)
        assert broken([(Refusing(), spec)], ahead) == {}
