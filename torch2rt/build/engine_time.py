"""The time of whole engines, to choose between engines of one network."""

from __future__ import annotations

from torch2rt.engine.context import Executable
from torch2rt.engine.engine import Engine
from torch2rt.engine.plan import Plan
from torch2rt.engine.plan_timing import time_plan_us


def plan_time_us(engine: Engine, plan: Plan) -> float | None:
    """Time of a run by a plan, measured now; None where the backend does not time plans."""
    layers = {layer.name: layer for layer in engine.network.layers}
    executable = Executable(plan, layers, engine.backend, engine.weights, engine.prepare)
    with engine.backend.exclusive():
        return time_plan_us(executable)


def engine_time_us(engine: Engine) -> float:
    """Time of a run at each tuned shape, summed: measured, or by the steps' times."""
    total = 0.0
    for plan in engine.plans:
        time_us = plan_time_us(engine, plan)
        total += sum(step.time_us for step in plan.steps) if time_us is None else time_us
    return total
