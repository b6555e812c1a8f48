"""One turn on a GPU: calls between CUDA events, and calls that are waited for one by one."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

# An event costs the GPU about a microsecond: so long are the groups of calls between two.
SHORTEST_GROUP_S = 1e-3
MIN_GROUPS = 5
# Part of a turn's time that goes to calls which are waited for.
LATENCY_SHARE = 0.2


class Gpu(Protocol):
    """What is used of `torch.cuda`."""

    def synchronize(self) -> None:
        """Wait for all work."""

    def Event(self, enable_timing: bool) -> Any:
        """A mark in the current stream: ``record()``, ``elapsed_time(later)`` in ms."""


@dataclass(frozen=True, slots=True)
class GpuTurn:
    """Milliseconds per call, medians over a turn.

    ``busy_ms``: between events, with the next call enqueued while one runs. ``latency_ms``: from
    the call to its result, waiting for each, on the host's clock.
    """

    busy_ms: float
    latency_ms: float
    calls: int


def run_gpu_turn(
    call: Callable[[], object], seconds: float, min_calls: int, warm_s: float,
    gpu: Gpu = torch.cuda,
) -> GpuTurn:
    """Time calls that enqueue their work on torch's current stream."""
    estimate_s = _warm_up(call, warm_s, gpu)
    group = math.ceil(SHORTEST_GROUP_S / estimate_s)
    wanted = max(seconds * (1 - LATENCY_SHARE) / estimate_s, min_calls)
    groups = max(MIN_GROUPS, math.ceil(wanted / group))
    events = [gpu.Event(enable_timing=True) for _ in range(groups + 1)]
    events[0].record()
    for event in events[1:]:
        for _ in range(group):
            call()
        event.record()
    gpu.synchronize()
    busy_ms = statistics.median(
        before.elapsed_time(after) / group
        for before, after in itertools.pairwise(events)
    )
    count = max(MIN_GROUPS, math.ceil(seconds * LATENCY_SHARE / estimate_s))
    return GpuTurn(busy_ms, _latency_ms(call, count, gpu), groups * group + count)


def _warm_up(call: Callable[[], object], warm_s: float, gpu: Gpu) -> float:
    """Call until ``warm_s`` has passed; seconds that a call takes."""
    count = 1
    deadline = time.perf_counter() + warm_s
    while True:
        gpu.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            call()
        gpu.synchronize()
        now = time.perf_counter()
        if now >= deadline:
            return max((now - started) / count, 1e-7)
        count *= 2


def _latency_ms(call: Callable[[], object], count: int, gpu: Gpu) -> float:
    samples = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        gpu.synchronize()
        samples.append((time.perf_counter() - started) * 1e3)
    return statistics.median(samples)
