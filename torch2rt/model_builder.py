"""Builds engines of a captured model: one for each mix of precisions that is tried."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch2rt.backends.backend import Backend
from torch2rt.build.builder import build_engine
from torch2rt.build.timing_cache import TimingCache
from torch2rt.build.workers import WorkerPool
from torch2rt.capture.captured import CapturedGraph
from torch2rt.config import BuildConfig
from torch2rt.engine.engine import Engine
from torch2rt.lower import Lowered
from torch2rt.network.network import Network
from torch2rt.passes.base import Log
from torch2rt.quantize.overrides import PRECISIONS
from torch2rt.quantize.table import CalibrationTable


class Steps(Protocol):
    """What shows how far a conversion is."""

    def __call__(self, name: str) -> None:
        """A step starts."""

    def within(self, count: int) -> None:
        """So many more layers are tuned."""

    def compiled(self, done: int, known: int) -> None:
        """So many of the kernels that are known to be needed are compiled."""


@dataclass(frozen=True)
class ModelBuilder:
    """Builds networks made from one captured model.

    Engines share the timing cache, the time for tuning, and the processes that compile.
    """

    captured: CapturedGraph
    lowered: Lowered
    config: BuildConfig
    backend: Backend
    cache: TimingCache
    symbols: Sequence[Mapping[str, int]]
    step: Steps
    workers: WorkerPool
    _started: float = field(default_factory=time.monotonic)

    def __call__(
        self, network: Network, log: Log, precision: str, table: CalibrationTable | None
    ) -> Engine:
        """The engine of a network, called by a precision; the log is for its report.

        The table is that of its ranges, which it keeps.
        """
        self.step("build")
        calls = {
            "inputs": self.captured.call_spec.to_json(),
            "outputs": self.captured.output_spec.to_json(),
        }
        return build_engine(
            network, self.symbols, self.backend, self.cache, precision=precision,
            on_progress=self.step.within, on_compiled=self.step.compiled,
            budget_s=self._left_s(), workers=self.workers, calls=calls, report=self._report(log),
            calibration=table.to_json() if table is not None else None,
        )

    def _left_s(self) -> float | None:
        """Seconds left for tuning, None for no limit."""
        if self.config.tune_budget_s is None:
            return None
        return max(0.0, self.config.tune_budget_s - (time.monotonic() - self._started))

    def _report(self, log: Log) -> dict[str, Any]:
        """What `rt.report()` tells beyond the plans."""
        captured, lowered, overrides = self.captured, self.lowered, self.config.overrides
        return {
            **({PRECISIONS: overrides.to_json()} if overrides.is_by_layer else {}),
            "notes": [*captured.notes, *lowered.notes],
            "fallbacks": [[f.op, f.module_path, f.source, f.reason] for f in lowered.fallbacks],
            "fired": [[f.rule, f.layer, f.where] for f in log.fired],
            "rejected": [[r.rule, r.layer, r.where, r.reason] for r in log.rejected.values()],
        }
