"""Time of every step of an engine on real inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torch2rt.backends.buffer import address_of, aligned_bytes
from torch2rt.engine.context import Context
from torch2rt.engine.engine import Engine, Runnable
from torch2rt.inspect.steps import shorten, step_title
from torch2rt.network.dtype import Array


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
    round, so every step finds the caches as in a real call.
    """
    runnable = engine.runnable(tuple(array.shape for array in inputs))
    context = Context(runnable.executable)
    held = _bind(context, runnable, inputs)
    runs = [engine.backend.runner(calls) for calls in context.calls_per_step]
    samples = np.zeros((rounds, len(runs)))
    totals = np.zeros(rounds)
    with engine.backend.building():
        context.run()
        for number in range(rounds):
            start = time.perf_counter_ns()
            context.run()
            totals[number] = time.perf_counter_ns() - start
            for position, run in enumerate(runs):
                start = time.perf_counter_ns()
                run()
                samples[number, position] = time.perf_counter_ns() - start
    del held
    times_us = np.median(samples, axis=0) / 1e3
    steps = tuple(
        StepTime(
            step_title(runnable.executable.plan, position), step.spec.kind.name,
            step.plan_step.tactic, step.spec.where, float(us),
            sum(t.size_bytes for t in (*step.spec.inputs, *step.spec.outputs)),
        )
        for position, (step, us) in enumerate(
            zip(runnable.executable.steps, times_us, strict=True)
        )
    )
    return EngineProfile(steps, float(np.median(totals)) / 1e3)


def _bind(context: Context, runnable: Runnable, inputs: Sequence[Array]) -> list[Array]:
    """Point the context at inputs and fresh outputs, which the caller keeps alive."""
    held = [np.ascontiguousarray(array) for array in inputs]
    for move, array in zip(context.movers("input", runnable.input_names), held, strict=True):
        move(address_of(array))
    for name, spec in zip(runnable.output_names, runnable.output_specs, strict=True):
        block = aligned_bytes(max(spec.size_bytes, 1))
        context.mover("output", name)(address_of(block))
        held.append(block)
    return held
