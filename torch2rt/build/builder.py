"""Builds an engine: one plan per profile, tactics chosen by measured time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch2rt.backends.backend import Backend
from torch2rt.build.measure import Measure
from torch2rt.build.planner import make_plan
from torch2rt.build.timing_cache import TimingCache
from torch2rt.engine.engine import Engine
from torch2rt.network.network import Network

logger = logging.getLogger(__name__)


def build_engine(
    network: Network, profiles: Sequence[Mapping[str, int]], backend: Backend, cache: TimingCache,
    *, on_progress: Callable[[int], object] | None = None, **details: Any,
) -> Engine:
    """An engine tuned for these values of the shape symbols.

    ``details`` go to `Engine`. The timing cache is saved even when a later step fails.
    """
    engine = Engine(network, (), backend, **details)
    measure = Measure(backend, cache, engine.weights, on_progress=on_progress)
    try:
        with backend.building():
            for symbols in profiles:
                engine.add_plan(make_plan(
                    network, symbols, measure,
                    lambda option: engine.prepare(option.tactic.name, option.spec),
                ))
    finally:
        cache.save()
    return engine
