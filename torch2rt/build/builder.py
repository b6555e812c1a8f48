"""Builds an engine: one plan per profile, tactics chosen by measured time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch2rt.backends.backend import Backend
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.compile_ahead import CompileAhead, OnCompiled
from torch2rt.build.engine_time import plan_time_us
from torch2rt.build.in_place import InPlace
from torch2rt.build.measure import Measure
from torch2rt.build.planner import make_plans
from torch2rt.build.timing_cache import TimingCache
from torch2rt.build.workers import WorkerPool
from torch2rt.engine.engine import Engine
from torch2rt.engine.plan import Plan
from torch2rt.network.network import Network

logger = logging.getLogger(__name__)

# Beside the timing cache.
_BLOBS = "blobs"


def build_engine(
    network: Network, profiles: Sequence[Mapping[str, int]], backend: Backend, cache: TimingCache,
    *, on_progress: Callable[[int], object] | None = None, on_compiled: OnCompiled | None = None,
    budget_s: float | None = None, workers: WorkerPool | None = None, **details: Any,
) -> Engine:
    """An engine tuned for these values of the shape symbols.

    Nothing is measured after ``budget_s`` seconds: the heaviest layers are tuned first, the rest
    by estimate, and a later build with the same cache goes on from there. ``workers`` compile, and
    may be shared by several builds. ``details`` go to `Engine`. The timing cache is saved even when
    a later step fails.
    """
    engine = Engine(network, (), backend, **details)
    version = backend.compiler_version()
    folder = cache.path.parent / _BLOBS if cache.path is not None else None
    blobs = BlobCache(folder, version)
    engine.weights.blob_source = blobs.fetch
    own = WorkerPool(backend.compile_workers) if workers is None else nullcontext(workers)
    with own as pool:
        measure = Measure(
            backend, cache, engine.weights, on_progress=on_progress, blobs=blobs,
            deadline=math.inf if budget_s is None else time.monotonic() + budget_s,
        )
        if version:
            measure.compile_ahead = CompileAhead(
                backend, engine.weights, blobs, pool, on_compiled
            )
        in_place = InPlace(network, backend, measure, blobs)
        try:
            with backend.building():
                for symbols in profiles:
                    plans = make_plans(
                        network, symbols, measure,
                        lambda option: engine.prepare(option.tactic.name, option.spec),
                        backend.max_streams, in_place.settled if backend.times_runs else None,
                    )
                    engine.add_plan(_fastest(plans, engine))
        finally:
            cache.save()
            measure.close()
            blobs.forget()
    return engine


def _fastest(plans: Sequence[Plan], engine: Engine) -> Plan:
    """The plan that takes the least time, the first where the backend does not time plans."""
    if len(plans) == 1:
        return plans[0]
    times: list[float] = []
    for plan in plans:
        time_us = plan_time_us(engine, plan)
        if time_us is None:
            return plans[0]
        times.append(time_us)
    best = times.index(min(times))
    logger.info("plans on %s streams take %s us", [plan.stream_count for plan in plans],
                [round(time_us, 1) for time_us in times])
    return plans[best]
