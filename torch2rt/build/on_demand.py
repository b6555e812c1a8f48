"""Plans for shapes nobody tuned, made while somebody waits: nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch2rt.build.measure import Measure
from torch2rt.build.planner import make_plan
from torch2rt.build.timing_cache import TimingCache
from torch2rt.engine.plan import Plan

if TYPE_CHECKING:
    from torch2rt.engine.engine import Engine


def plan_on_demand(engine: Engine, symbols: Mapping[str, int]) -> Plan:
    """A plan from estimates and from the choices of the engine's tuned plans."""
    cache = TimingCache()
    measure = Measure(engine.backend, cache, engine.weights, is_quick=True,
                      preferred=preferred_tactics(engine))
    with engine.backend.building():
        return make_plan(
            engine.network, symbols, measure,
            lambda option: engine.prepare(option.tactic.name, option.spec),
        )


def preferred_tactics(engine: Engine) -> dict[str, tuple[str, str]]:
    """For each layer, the tactic and output layout a tuned plan chose."""
    return {
        step.layer: (step.tactic, plan.tensors[step.outputs[0]].spec.layout.value)
        for plan in engine.plans
        for step in plan.steps
        if step.layer
    }
