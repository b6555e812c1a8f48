"""The CPU backend: oneDNN and numpy tactics, a thread count of its own, no torch unless needed."""

from __future__ import annotations

import ctypes
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from torch2rt.backends.backend import Backend, find_tactic, find_tactics
from torch2rt.backends.buffer import address_of
from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.jit import missing_package
from torch2rt.backends.cpu.onednn.openmp import openmp
from torch2rt.backends.cpu.threads import ThreadCount, available_threads
from torch2rt.backends.pages import paged_bytes
from torch2rt.backends.tactic import Call, Tactic
from torch2rt.errors import DeviceError
from torch2rt.network.dtype import Array

logger = logging.getLogger(__name__)

_TACTICS = "torch2rt.backends.cpu.tactics"
_MIN_ROUNDS = 5
_MAX_ROUNDS = 200
# More than the last-level cache of a core's share on any CPU we know.
_EVICTED_BYTES = 64 << 20


class CpuBackend(Backend):
    """Runs on ``threads`` CPU cores; None: the physical cores this process may use.

    ``notes`` says what is missing here and what that costs.
    """

    name = "cpu"
    device = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = available_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"{self.threads} threads: at least 1 is needed")
        self.notes: list[str] = []
        reason = onednn_unavailable()
        if reason is not None:
            self.notes.append(reason)
        missing = missing_package()
        if missing is not None:
            self.notes.append(missing)
        self._has_onednn = reason is None

    @cached_property
    def tactics(self) -> dict[str, Tactic]:
        """All tactics by name, without oneDNN's where it is missing."""
        found = find_tactics(_TACTICS)
        if self._has_onednn:
            return dict(found)
        return {name: tactic for name, tactic in found.items() if ".onednn." not in name}

    def tactic(self, name: str) -> Tactic:
        """One tactic by name, importing no other; KeyError if there is none here."""
        if not self._has_onednn and ".onednn." in name:
            raise KeyError(name)
        return find_tactic(_TACTICS, name)

    def fingerprint(self) -> str:
        """CPU model, instruction set and version of oneDNN, numpy's version, threads."""
        library = "none"
        if self._has_onednn:
            library = f"{'.'.join(map(str, onednn.version()))} {onednn.effective_isa()}"
        return f"{cpu_model()}; onednn {library}; numpy {np.__version__}; threads {self.threads}"

    def allocate(self, size_bytes: int) -> Array:
        """Zeroed memory at a multiple of 64 bytes."""
        return paged_bytes(size_bytes)

    def address(self, memory: Array) -> int:
        """Address of allocated memory."""
        return address_of(memory)

    def upload_bytes(self, address: int, data: Array) -> None:
        """Copy an array's bytes to memory."""
        data = np.ascontiguousarray(data)
        ctypes.memmove(address, address_of(data), data.nbytes)

    def download_bytes(self, address: int, size_bytes: int) -> Array:
        """The bytes at an address."""
        return np.frombuffer(ctypes.string_at(address, size_bytes), np.uint8)

    def new_stream(self) -> Any:
        """A oneDNN stream, or None without oneDNN."""
        return onednn.Stream() if self._has_onednn else None

    def building(self) -> AbstractContextManager[None]:
        """The thread count holds inside, for preparing, timing and running."""
        return ThreadCount(self.threads).applied()

    def time_calls_us(
        self, candidates: Sequence[Sequence[Call]], budget_ms: float,
        warm: Sequence[Sequence[Array]] | None = None,
    ) -> list[float]:
        """Least time of each candidate in microseconds, measured in turns.

        Taking turns, every candidate finds the caches as the others left them; with ``warm``,
        emptied but for these blocks. The least, because other processes only ever make a run
        slower. ``budget_ms`` is for all candidates together and bounds the rounds, of which there
        are at least a few. Infinite where the calls report an error.
        """
        if not candidates:
            return []
        with self.building():
            runs = [self.runner(calls) for calls in candidates]
            working = [index for index, run in enumerate(runs) if _works(run)]
            least = [math.inf] * len(candidates)
            end = time.perf_counter_ns() + int(budget_ms * 1e6)
            for done in range(_MAX_ROUNDS):
                if done >= _MIN_ROUNDS and time.perf_counter_ns() >= end:
                    break
                for index in working:
                    if warm is not None:
                        _empty_caches(warm[index])
                    start = time.perf_counter_ns()
                    runs[index]()
                    least[index] = min(least[index], (time.perf_counter_ns() - start) / 1e3)
        return least

    def runner(self, calls: Sequence[Call]) -> Callable[[], None]:
        """A function that runs the calls with this backend's thread count.

        It raises DeviceError when a call reports a status other than 0.
        """
        steps = tuple(calls)
        threads = self.threads
        if not self._has_onednn:
            return lambda: _run(steps)
        library = openmp()
        read_count, set_count = library.omp_get_max_threads, library.omp_set_num_threads

        def run() -> None:
            before = read_count()
            if before == threads:
                _run(steps)
                return
            # torch shares the OpenMP run time: the caller's count is put back.
            set_count(threads)
            try:
                _run(steps)
            finally:
                set_count(before)

        return run


def _works(run: Callable[[], None]) -> bool:
    """Warm up; whether it ran."""
    try:
        run()
    except DeviceError as error:
        logger.warning("a candidate fails while it is timed: %s", error)
        return False
    return True


@cache
def _eviction_block() -> Array:
    return np.ones(_EVICTED_BYTES // 4, np.float32)


def _empty_caches(warm: Sequence[Array]) -> None:
    """Read more than the caches hold, then the blocks that are to be in them."""
    np.maximum.reduce(_eviction_block())
    for block in warm:
        np.maximum.reduce(block, initial=0)


def _run(steps: tuple[Call, ...]) -> None:
    for function, arguments in steps:
        status = function(*arguments)
        if status:
            position = next(i for i, step in enumerate(steps) if step == (function, arguments))
            raise DeviceError(
                device="cpu", reason=f"call {position} of {len(steps)} ended with status {status}",
                remedy="Convert the model again on this machine.",
            )


@cache
def onednn_unavailable() -> str | None:
    """Why oneDNN cannot be used in this process, or None."""
    try:
        onednn.library()
    except onednn.OneDNNUnavailable as error:
        return str(error)
    return None


@cache
def cpu_model() -> str:
    """The processor's name, family and model as the system gives them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown CPU"
    fields = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in lines) if value
    }
    keys = ("model name", "cpu family", "model", "stepping")
    return " ".join(fields[key] for key in keys if key in fields) or "unknown CPU"
