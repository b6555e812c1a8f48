"""Plans for shapes nobody tuned, made while somebody waits: nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.compile_ahead import CompileAhead
from torch2rt.build.measure import Measure
from torch2rt.build.planner import make_plan
from torch2rt.build.timing_cache import TimingCache
from torch2rt.build.workers import WorkerPool
from torch2rt.engine.plan import Plan

if TYPE_CHECKING:
    from torch2rt.engine.engine import Engine


def plan_on_demand(engine: Engine, symbols: Mapping[str, int]) -> Plan:
    """A plan from estimates and from the choices of the engine's tuned plans.

    What failed there, or was wrong, is not taken here either: nobody would notice. Kernels that
    the engine does not have yet are compiled in parallel.
    """
    backend, weights = engine.backend, engine.weights
    blobs = BlobCache()
    for key, blob in weights.blobs.items():
        blobs.put(key, blob)
    measure = Measure(backend, TimingCache(), weights, is_quick=True, blobs=blobs,
                      preferred=preferred_tactics(engine), excluded=failed_tactics(engine))
    usual_source, weights.blob_source = weights.blob_source, blobs.fetch
    try:
        with WorkerPool(backend.compile_workers) as workers, backend.building():
            if backend.compiler_version():
                measure.compile_ahead = CompileAhead(backend, weights, blobs, workers)
            return make_plan(
                engine.network, symbols, measure,
                lambda option: engine.prepare(option.tactic.name, option.spec),
            )
    finally:
        weights.blob_source = usual_source


def preferred_tactics(engine: Engine) -> dict[str, tuple[str, str]]:
    """For each layer, the tactic and output layout a tuned plan chose."""
    return {
        step.layer: (step.tactic, plan.tensors[step.outputs[0]].spec.layout.value)
        for plan in engine.plans
        for step in plan.steps
        if step.layer
    }


def failed_tactics(engine: Engine) -> dict[str, set[tuple[str, str]]]:
    """For each layer, the tactics and layouts that failed when a plan was tuned."""
    failed: dict[str, set[tuple[str, str]]] = {}
    for plan in engine.plans:
        for layer, names in plan.failed.items():
            failed.setdefault(layer, set()).update(names)
    return failed
