"""Times candidates on the GPU: each captured in a graph, in turns, with warm or cold caches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cupy

from torch2rt.backends.backend import RunPlan
from torch2rt.backends.cuda.device import Memory
from torch2rt.backends.cuda.launch import CudaCall, cuda_call
from torch2rt.backends.tactic import Call

# A graph that is timed repeats its candidate for about so long.
_GRAPH_US = 150.0
_MAX_REPEATS = 40
_MIN_ROUNDS = 5
_MAX_ROUNDS = 30
# A candidate that takes this much longer than the best in its first try is not timed further.
_HOPELESS = 1.7
# Runs of a plan before it is captured and warm.
_SETTLING = 4
# A node of a graph that does next to nothing.
_NODE_US = 0.9


@dataclass
class _Candidate:
    index: int
    launch: Callable[[Any], object]
    repeats: int
    first_us: float
    warm: Sequence[Memory] | None
    samples_us: list[float] = field(default_factory=list)


class GraphTimer:
    """Times calls on one device. ``l2_bytes``: its last cache, emptied for cold timings."""

    def __init__(self, l2_bytes: int) -> None:
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._start = cupy.cuda.Event()
        self._end = cupy.cuda.Event()
        self._l2_bytes = l2_bytes

    def time_us(
        self, candidates: Sequence[Sequence[Call]], budget_ms: float,
        warm: Sequence[Sequence[Memory]] | None,
    ) -> list[float]:
        """Median time of each candidate in microseconds; infinite where it does not run.

        A sample lies between two events around a graph. With ``warm`` the L2 cache is emptied
        before each, but for these blocks.
        """
        times = [math.inf] * len(candidates)
        prepared = []
        for index, calls in enumerate(candidates):
            candidate = self._prepare(index, calls, warm[index] if warm is not None else None)
            if candidate is not None:
                prepared.append(candidate)
        if not prepared:
            return times
        best_us = min(candidate.first_us for candidate in prepared)
        racing = [c for c in prepared if c.first_us <= _HOPELESS * best_us]
        round_us = sum(candidate.first_us * candidate.repeats + 20.0 for candidate in racing)
        rounds = max(_MIN_ROUNDS, min(_MAX_ROUNDS, int(budget_ms * 1e3 / round_us)))
        for _ in range(rounds):
            for candidate in racing:
                candidate.samples_us.append(self._sample_us(candidate))
        for candidate in prepared:
            samples = candidate.samples_us or [candidate.first_us]
            times[candidate.index] = statistics.median(samples)
        return times

    def _prepare(
        self, index: int, calls: Sequence[Call], warm: Sequence[Memory] | None
    ) -> _Candidate | None:
        """A candidate ready for its race, or None if it does not run."""
        functions = [cuda_call(call) for call in calls]
        if not all(self._works(function) for function in functions):
            return None
        self._stream.synchronize()
        if not all(function.is_capturable for function in functions):
            candidate = _Candidate(index, _enqueued(functions), 1, 0.0, warm)
            candidate.first_us = self._sample_us(candidate)
            return candidate
        candidate = _Candidate(index, self._captured(functions, 1), 1, 0.0, warm)
        candidate.first_us = min(self._sample_us(candidate) for _ in range(3))
        repeats = max(1, min(_MAX_REPEATS, round(_GRAPH_US / max(candidate.first_us, 1.0))))
        if warm is None and repeats > 1:
            candidate.launch = self._captured(functions, repeats)
            candidate.repeats = repeats
            candidate.first_us = min(self._sample_us(candidate) for _ in range(2))
        return candidate

    def _works(self, function: CudaCall) -> bool:
        function.stream = self._stream
        return function() == 0

    def _captured(self, functions: Sequence[CudaCall], repeats: int) -> Callable[[Any], object]:
        stream = self._stream
        stream.begin_capture(2)
        for _ in range(repeats):
            for function in functions:
                function.stream = stream
                function()
        launch: Callable[[Any], object] = stream.end_capture().launch
        return launch

    def _sample_us(self, candidate: _Candidate) -> float:
        """One sample per call, without what starting a graph takes."""
        elapsed_us = self._elapsed_us(candidate.launch, candidate.warm)
        return max((elapsed_us - self._start_us) / candidate.repeats, 0.01)

    @cached_property
    def _start_us(self) -> float:
        """What two events around a graph read beyond the time of its nodes."""
        block = cupy.cuda.alloc(256)
        stream = self._stream
        stream.begin_capture(2)
        block.memset_async(0, 256, stream)
        graph = stream.end_capture()
        samples = [self._elapsed_us(graph.launch, None) for _ in range(20)]
        return max(statistics.median(samples) - _NODE_US, 0.0)

    def _elapsed_us(
        self, launch: Callable[[Any], object], warm: Sequence[Memory] | None
    ) -> float:
        # Work ahead of the first event lets the CPU enqueue all before the GPU gets there.
        self._empty_caches(warm)
        self._start.record(self._stream)
        launch(self._stream)
        self._end.record(self._stream)
        self._end.synchronize()
        return float(cupy.cuda.get_elapsed_time(self._start, self._end)) * 1e3

    def _empty_caches(self, warm: Sequence[Memory] | None) -> None:
        """Write more than the L2 cache holds, then read these blocks; None: write a little."""
        block, size = self._eviction
        block.memset_async(0, size if warm is not None else size // 4, self._stream)
        left = self._l2_bytes // 2
        for memory in warm or ():
            read = min(memory.size_bytes, left)
            if read:
                block.copy_from_device_async(_pointer(memory, read), read, self._stream)
            left -= read

    @cached_property
    def _eviction(self) -> tuple[Any, int]:
        size = 2 * self._l2_bytes
        return cupy.cuda.alloc(size), size


def _pointer(memory: Memory, size_bytes: int) -> Any:
    unowned = cupy.cuda.UnownedMemory(memory.address, size_bytes, memory)
    return cupy.cuda.MemoryPointer(unowned, 0)


def _enqueued(functions: Sequence[CudaCall]) -> Callable[[Any], object]:
    def run(stream: Any) -> None:
        for function in functions:
            function.stream = stream
            function()

    return run


def time_run_us(run: RunPlan) -> float:
    """Median time of a whole run on a stream of its own."""
    stream = cupy.cuda.Stream(non_blocking=True)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    samples = []
    for _ in range(_SETTLING + _MAX_ROUNDS):
        start.record(stream)
        run(stream.ptr)
        end.record(stream)
        end.synchronize()
        samples.append(float(cupy.cuda.get_elapsed_time(start, end)) * 1e3)
    return statistics.median(samples[_SETTLING:])
