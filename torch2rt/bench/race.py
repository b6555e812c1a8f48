"""Contenders side by side: builds one after the other, then turns in shuffled order.

Interleaving is what makes the ratios believable: whatever else the machine does, and however its
clock moves, falls on all contenders alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch2rt.bench.errors import WorkerDiedError, WorkerTimeoutError
from torch2rt.bench.machine import busy_seconds, usable_cores
from torch2rt.bench.options import TOLERANCES, BenchOptions
from torch2rt.bench.protocol import Build, Built, Message, Refused, Turn, TurnDone
from torch2rt.bench.result import FAILED, OK, TIMEOUT, WRONG

# Of each variant of a contender; the first also serves as its warm-up.
QUALIFYING_TURNS = 4


class Worker(Protocol):
    """What a race needs of a process."""

    def ask(self, order: Message, timeout_s: float) -> Message:
        """Send an order, return the answer."""

    def close(self) -> None:
        """End the process."""


@dataclass(slots=True)
class Entrant:
    """One contender at one precision, as far as it has come in the race."""

    contender: str
    variant: str = ""
    status: str = OK
    reason: str = ""
    version: str = ""
    error: float | None = None
    build_s: float | None = None
    worker: Worker | None = None
    rounds_ms: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    idle_cpu_s: float = 0.0
    # Time of the other variants in one turn each, for the notes.
    also: list[str] = field(default_factory=list)

    def drop(self, status: str, reason: str) -> None:
        """Take it out of the race, keeping what is known."""
        self.status, self.reason = status, reason
        self.rounds_ms.clear()
        self.close()

    def close(self) -> None:
        """End its process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


@dataclass(slots=True)
class Disturbance:
    """Processor time that others used while the race ran, as a share of the machine."""

    wall_s: float = 0.0
    ours_s: float = 0.0
    busy_s: float = 0.0

    @property
    def foreign_share(self) -> float:
        """0 on a quiet machine, 1 when others took every core all the time."""
        if self.wall_s <= 0.0:
            return 0.0
        return max(0.0, self.busy_s - self.ours_s) / (self.wall_s * usable_cores())


def ask(entrant: Entrant, order: Message, timeout_s: float) -> Message | None:
    """Ask an entrant's worker; None after an entrant that cannot answer has been dropped."""
    if entrant.worker is None:
        return None
    try:
        answer = entrant.worker.ask(order, timeout_s)
    except WorkerTimeoutError as error:
        entrant.drop(TIMEOUT, str(error))
        return None
    except WorkerDiedError as error:
        entrant.drop(FAILED, str(error))
        return None
    if isinstance(answer, Refused):
        entrant.drop(answer.status, answer.reason)
        return None
    return answer


def build_entrant(
    entrant: Entrant, order: Build, options: BenchOptions, limit_s: float | None = None
) -> None:
    """Build, and drop what is wrong before any time is taken."""
    timeout_s = min(options.build_timeout_s, limit_s or options.build_timeout_s)
    answer = ask(entrant, order, timeout_s)
    if not isinstance(answer, Built):
        return
    entrant.version, entrant.error, entrant.build_s = answer.version, answer.error, answer.build_s
    allowed = TOLERANCES[order.precision]
    if not answer.error <= allowed:
        entrant.drop(WRONG, f"relative error {answer.error:.3g} exceeds {allowed:g}")


def take_turn(entrant: Entrant, options: BenchOptions) -> TurnDone | None:
    """One turn of one entrant, after a silence."""
    time.sleep(options.settle_s)
    order = Turn(options.turn_s, options.min_calls, options.warm_s, options.realtime)
    answer = ask(entrant, order, options.turn_timeout_s)
    return answer if isinstance(answer, TurnDone) else None


def quickest_variant(variants: Sequence[Entrant], options: BenchOptions) -> Entrant:
    """The variant with the quickest single turn of a few interleaved ones; the others close.

    The quickest turn, not the median one: with so few turns, noise, which only ever adds, must
    not choose. Where none can be timed, the first one's reason stands for all.
    """
    times_ms: dict[int, list[float]] = {index: [] for index in range(len(variants))}
    if len(variants) > 1:
        for _ in range(QUALIFYING_TURNS):
            for index, entrant in enumerate(variants):
                done = take_turn(entrant, options)
                times_ms[index] += [done.median_ms] if done else []
    alive = [index for index, entrant in enumerate(variants) if entrant.worker is not None]
    if not alive:
        return variants[0]
    alive.sort(key=lambda index: min(times_ms[index], default=0.0))
    best = variants[alive[0]]
    best.also = [f"{variants[i].variant} {min(times_ms[i]):.3g} ms" for i in alive[1:]]
    best.also += [f"{e.variant}: {e.status}: {e.reason}" for e in variants if e.worker is None]
    for index in alive[1:]:
        variants[index].close()
    return best


def run_rounds(
    entrants: Sequence[Entrant], options: BenchOptions, tick: Callable[[], object]
) -> Disturbance:
    """All rounds. Fills ``rounds_ms`` of every entrant that stays; calls ``tick`` per round."""
    shuffler = random.Random(options.seed)
    disturbance = Disturbance()
    for index in range(options.warmup + options.rounds):
        running = [entrant for entrant in entrants if entrant.worker is not None]
        shuffler.shuffle(running)
        busy_before, started = busy_seconds(), time.perf_counter()
        for entrant in running:
            done = take_turn(entrant, options)
            if done is None:
                continue
            disturbance.ours_s += done.cpu_s + done.idle_cpu_s
            if index >= options.warmup:
                entrant.rounds_ms.append(done.median_ms)
                entrant.latencies_ms += [done.latency_ms] if done.latency_ms is not None else []
                entrant.idle_cpu_s += done.idle_cpu_s
        busy_after = busy_seconds()
        if busy_before is not None and busy_after is not None:
            disturbance.busy_s += busy_after - busy_before
            disturbance.wall_s += time.perf_counter() - started
        tick()
    return disturbance
