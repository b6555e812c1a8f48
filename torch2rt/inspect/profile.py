"""Time of every step of an engine on real inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.engine.context import Context
from torch2rt.engine.engine import Engine, Runnable
from torch2rt.engine.plan_timing import time_plan_us
from torch2rt.inspect.roofline import step_cost
from torch2rt.inspect.steps import shorten, step_title
from torch2rt.network.dtype import Array

# Of a GPU's time for one step.
_STEP_BUDGET_MS = 5.0


@dataclass(frozen=True, slots=True)
class StepTime:
    """Median time of one step in microseconds, and the bytes it moves.

    ``layer`` says of a reformat what it changes and for whom; ``where`` is the module path.
    """

    layer: str
    kind: str
    tactic: str
    where: str
    time_us: float
    bytes: int


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Times of the steps, and of whole calls, in microseconds."""

    steps: tuple[StepTime, ...]
    total_us: float

    def __str__(self) -> str:
        total_us = sum(step.time_us for step in self.steps)
        lines = [
            f"{'layer':<40} {'tactic':<32} {'us':>9} {'share':>6} {'GB/s':>7}",
            *(
                f"{shorten(s.layer, 40):<40} {s.tactic:<32} {s.time_us:>9.1f} "
                f"{s.time_us / max(total_us, 1e-9):>6.1%} "
                f"{s.bytes / max(s.time_us, 1e-9) / 1e3:>7.1f}"
                for s in self.steps
            ),
            f"sum of steps {total_us:.1f} us, whole call {self.total_us:.1f} us",
        ]
        return "\n".join(lines)


def profile_engine(
    engine: Engine, inputs: Sequence[Array], *, rounds: int = 30
) -> EngineProfile:
    """Run the engine ``rounds`` times step by step, and as often as a whole.

    ``inputs`` are row-major arrays in the order of the bindings. Steps run in order within each
    round, so every step finds the caches as in a real call. On a GPU every step is timed by
    itself, replayed as a graph, and calls without the way to the GPU and back.
    """
    runnable = engine.runnable(tuple(array.shape for array in inputs))
    context = Context(runnable.executable)
    held = _bind(context, runnable, inputs)
    total_us = time_plan_us(runnable.executable)
    if total_us is None:
        times_us, total_us = _by_the_clock(context, rounds)
    else:
        context.run(0)
        times_us = [
            engine.backend.time_calls_us([calls], _STEP_BUDGET_MS)[0]
            for calls in context.calls_per_step
        ]
    del held
    steps = tuple(
        StepTime(
            step_title(runnable.executable.plan, position), step.spec.kind.name,
            step.plan_step.tactic, step.spec.where, us, step_cost(step.spec).bytes,
        )
        for position, (step, us) in enumerate(
            zip(runnable.executable.steps, times_us, strict=True)
        )
    )
    return EngineProfile(steps, total_us)


def _by_the_clock(context: Context, rounds: int) -> tuple[list[float], float]:
    """Median times of the steps and of whole calls, by the host's clock."""
    backend = context.executable.backend
    runs = [backend.runner(calls) for calls in context.calls_per_step]
    samples = np.zeros((rounds, len(runs)))
    totals = np.zeros(rounds)
    with backend.building():
        context.run(0)
        for number in range(rounds):
            start = time.perf_counter_ns()
            context.run(0)
            totals[number] = time.perf_counter_ns() - start
            for position, run in enumerate(runs):
                start = time.perf_counter_ns()
                run()
                samples[number, position] = time.perf_counter_ns() - start
    medians_us = np.median(samples, axis=0) / 1e3
    return [float(us) for us in medians_us], float(np.median(totals)) / 1e3


def _bind(context: Context, runnable: Runnable, inputs: Sequence[Array]) -> list[Any]:
    """Point the context at copies of the inputs and fresh outputs, which the caller keeps alive."""
    backend = context.executable.backend
    held = []
    for move, array in zip(context.movers("input", runnable.input_names), inputs, strict=True):
        memory = backend.allocate(max(array.nbytes, 1))
        backend.upload_bytes(backend.address(memory), np.ascontiguousarray(array))
        move(backend.address(memory))
        held.append(memory)
    for name, spec in zip(runnable.output_names, runnable.output_specs, strict=True):
        memory = backend.allocate(max(spec.size_bytes, 1))
        context.mover("output", name)(backend.address(memory))
        held.append(memory)
    return held
