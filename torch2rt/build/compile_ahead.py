"""Compiles what candidates need before anything is timed, in parallel.

Each tactic is prepared once for nothing: weights that know no blob stop it at the first one that
has not been made, and so its job is found. Found jobs run in worker processes; then the tactics
that were stopped are prepared again, until nothing is missing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch2rt.backends.backend import Backend
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Job, QuickJob, Tactic, Unprepared, Weights
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.worker import answer
from torch2rt.build.workers import Answer, WorkerPool
from torch2rt.network.dtype import Array

logger = logging.getLogger(__name__)

Candidate: TypeAlias = tuple[Tactic, LayerSpec]
# Called with the number of jobs done and known so far.
OnCompiled: TypeAlias = Callable[[int, int], object]


class _Missing(Exception):
    """A blob that has not been made."""

    def __init__(self, key: str, job: Job) -> None:
        super().__init__(key)
        self.key = key
        self.job = job


class _Touched(Exception):
    """A tactic looks into what was packed, so that it must be packed indeed."""


class _Unpacked:
    """Stands for packed weights and loaded kernels, which only `bind` is to look into."""

    def __getattr__(self, name: str) -> Any:
        raise _Touched(name)


@dataclass(frozen=True)
class _CollectingWeights(Weights):
    """Weights that stop at a blob that is not in the cache, and pack nothing."""

    weights: Weights
    blobs: BlobCache
    used: dict[str, bytes]
    packs: bool

    def array(self, name: str) -> Array:
        """The engine's own constant."""
        return self.weights.array(name)

    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """A stand-in, unless the tactic has been seen to look at what is packed."""
        return make() if self.packs else _Unpacked()

    def blob(self, key: str, job: Job) -> bytes:
        """The blob, or `_Missing`; Unprepared where its job is known to fail."""
        if not self.blobs.knows(key):
            raise _Missing(key, job)
        self.used[key] = self.blobs.fetch(key, job)
        return self.used[key]


@dataclass
class CompileAhead:
    """Fills a blob cache with all that candidates need."""

    backend: Backend
    weights: Weights
    blobs: BlobCache
    workers: WorkerPool
    on_compiled: OnCompiled | None = None
    done: int = 0
    known: int = 0

    def run(self, candidates: Iterable[Candidate], deadline: float = math.inf) -> None:
        """Make every blob of these candidates. What fails is remembered by the cache.

        What is not begun before ``deadline`` (of `time.monotonic`) is not made.
        """
        waiting = list(candidates)
        while waiting and time.monotonic() < deadline:
            jobs: dict[str, Job] = {}
            stopped: list[Candidate] = []
            with self.backend.building():
                for candidate in waiting:
                    missing = self._missing(*candidate)
                    if missing is not None:
                        jobs.setdefault(missing.key, missing.job)
                        stopped.append(candidate)
            self.known += len(jobs)
            slow = {key: job for key, job in jobs.items() if not isinstance(job, QuickJob)}
            self._run_here({key: job for key, job in jobs.items() if key not in slow})
            self.workers.run(slow, self._remember, deadline)
            waiting = stopped

    def _run_here(self, jobs: Mapping[str, Job]) -> None:
        """Run what would not be done sooner elsewhere."""
        with self.backend.building():
            for key, job in jobs.items():
                self._remember(key, Answer(*answer(lambda job=job: job)))  # type: ignore[misc]

    def blobs_of(self, tactic: Tactic, spec: LayerSpec) -> dict[str, bytes] | None:
        """The blobs that a tactic needs, all made; None if it cannot be prepared."""
        used: dict[str, bytes] = {}
        with self.backend.building():
            try:
                self._prepare(tactic, spec, used)
            except (Unprepared, _Missing):
                return None
        return used

    def _missing(self, tactic: Tactic, spec: LayerSpec) -> _Missing | None:
        """The first blob that the tactic needs and nobody has made."""
        try:
            self._prepare(tactic, spec, {})
        except _Missing as missing:
            return missing
        except Unprepared:
            return None
        return None

    def _prepare(self, tactic: Tactic, spec: LayerSpec, used: dict[str, bytes]) -> None:
        """Prepare for nothing: without packing, or with it where a tactic looks into that."""
        for packs in (False, True):
            with suppress(_Touched):
                tactic.prepare(spec, _CollectingWeights(self.weights, self.blobs, used, packs))
                return

    def _remember(self, key: str, result: Answer) -> None:
        if result.blob is not None:
            self.blobs.put(key, result.blob)
        else:
            remember = self.blobs.failed if result.is_broken else self.blobs.refused
            remember(key, result.reason)
            level = logging.WARNING if result.is_broken else logging.INFO
            logger.log(level, "%s cannot be made: %s", key, result.reason)
        self.done += 1
        if self.on_compiled is not None:
            self.on_compiled(self.done, self.known)
