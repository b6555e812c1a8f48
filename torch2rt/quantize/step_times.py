"""The times of an engine's layers, by what its builder measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch2rt.engine.context import step_spec
from torch2rt.engine.engine import Engine
from torch2rt.engine.plan import REFORMAT


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Microseconds by layer, all tuned shapes together; of reformats, by ``<tensor>.reformat``.

    ``bytes_per_us`` is the most that a step moves, ``least_us`` the shortest step.
    """

    by_layer: Mapping[str, float]
    bytes_per_us: float = 0.0
    least_us: float = 0.0


def step_times(engine: Engine) -> StepTimes:
    """The times of an engine's plans."""
    layers = {layer.name: layer for layer in engine.network.layers}
    by_layer: defaultdict[str, float] = defaultdict(float)
    most, least = 0.0, 0.0
    for plan in engine.plans:
        for step in plan.steps:
            name = step.layer or f"{plan.tensors[step.inputs[0]].name}.{REFORMAT}"
            by_layer[name] += step.time_us
            if step.time_us <= 0:
                continue
            spec = step_spec(plan, step, layers)
            moved = sum(tensor.size_bytes for tensor in (*spec.inputs, *spec.outputs))
            most = max(most, moved / step.time_us)
            least = min(least or step.time_us, step.time_us)
    return StepTimes(dict(by_layer), most, least)
