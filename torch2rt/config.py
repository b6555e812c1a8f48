"""Options of a build, checked once, and the only place that reads environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch2rt.errors import ConfigError
from torch2rt.quantize.budget import Budget
from torch2rt.quantize.overrides import FLOAT32, Overrides

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int8_weights")
# What a CPU has no arithmetic for, and what to use there instead.
_NOT_ON_CPU = {
    "fp16": 'precision="bf16", which is as fast there as it gets, or "fp32"',
    "tf32": 'precision="fp32"',
    "fp8": 'precision="int8", or "int8_weights"',
}
FALLBACKS = ("torch", "error")


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes an engine is tuned for: one size per axis, by input name."""

    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """Options of `torch2rt.convert` that say how to build. Wrong values raise ConfigError.

    With a ``budget``, the precision is any mix that is within it.
    """

    precision: str = "fp32"
    overrides: Overrides = FLOAT32
    budget: Budget | None = None
    device: str = "cpu"
    fallback: str = "torch"
    profiles: tuple[Profile, ...] = ()
    timing_cache: Path | None = None
    threads: int | None = None
    tune_budget_s: float | None = None
    verify: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("fallback", self.fallback, FALLBACKS)
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise ConfigError(
                option="threads", value=self.threads, reason="it counts CPU threads",
                remedy="Pass a positive integer, or None for all cores.",
            )
        for precision in (self.precision, *(value for _, value in self.overrides.patterns)):
            if self.device == "cpu" and precision in _NOT_ON_CPU:
                raise ConfigError(
                    option="precision", value=precision, reason='it needs device="cuda"',
                    remedy=f"On the CPU use {_NOT_ON_CPU[precision]}.",
                )
        self._check_budget()

    def _check_budget(self) -> None:
        budget_s = self.tune_budget_s
        is_number = isinstance(budget_s, int | float) and not isinstance(budget_s, bool)
        if budget_s is not None and not (is_number and budget_s >= 0):
            raise ConfigError(
                option="tune_budget_s", value=budget_s, reason="it is a time in seconds",
                remedy="Pass a number of at least 0, or None to time every tactic.",
            )


def _one_of(option: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            option=option, value=value, reason="unknown value",
            remedy=f"Use one of {', '.join(map(repr, allowed))}.",
        )


def default_timing_cache() -> Path:
    """Where measured times are kept unless a path is given: the user's cache folder."""
    base = os.environ.get("TORCH2RT_CACHE") or os.environ.get("XDG_CACHE_HOME")
    folder = Path(base) if base else Path.home() / ".cache"
    return folder / "torch2rt" / "timing.jsonl"
