"""How a benchmark is run, checked once for all that use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch2rt.errors import ConfigError

# Relative error (Euclidean norm, against eager fp32) above which a result counts as wrong: far
# above what rounding does to the networks we measure, far below what a wrong operator does.
TOLERANCES: Mapping[str, float] = MappingProxyType(
    {
        "fp32": 1e-3,
        "tf32": 1e-2,
        "fp16": 2e-2,
        "bf16": 1e-1,
        "int8": 3e-1,
        "fp8": 3e-1,
        "int8_weights": 1e-1,
        "auto": 3e-1,
    }
)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Durations and counts of a run.

    A *turn* is ``turn_s`` seconds of calls of one contender, at least ``min_calls``, after
    ``warm_s`` seconds of warm-up calls. A *round* gives every contender one turn, in shuffled
    order, each after ``settle_s`` of silence in which the threads of the one before go to sleep.
    The first ``warmup`` rounds are not counted. With ``realtime``, turns run before everything
    else on the machine, which takes root's rights and keeps a busy machine's noise out.
    ``timing_cache`` and ``tune_budget_s`` go to contenders that choose kernels by timing.
    """

    precision: tuple[str, ...] = ("fp32",)
    device: str = "cpu"
    threads: int = 2
    rounds: int = 20
    warmup: int = 2
    use_float64: bool = False
    realtime: bool = False
    seed: int = 0
    turn_s: float = 0.15
    min_calls: int = 3
    warm_s: float = 0.03
    settle_s: float = 0.01
    build_timeout_s: float = 900.0
    timing_cache: str | None = None
    tune_budget_s: float | None = None
    turn_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if not self.precision:
            raise ConfigError(
                option="precision",
                value=self.precision,
                reason="it names no precision",
                remedy='Give at least one, such as ("fp32",).',
            )
        for precision in self.precision:
            if precision not in TOLERANCES:
                raise ConfigError(
                    option="precision",
                    value=precision,
                    reason="there is no such precision",
                    remedy=f"Choose from {', '.join(TOLERANCES)}.",
                )
        for name, value, least in (
            ("threads", self.threads, 1),
            ("rounds", self.rounds, 1),
            ("warmup", self.warmup, 0),
            ("min_calls", self.min_calls, 1),
        ):
            if value < least:
                raise ConfigError(
                    option=name,
                    value=value,
                    reason=f"it is less than {least}",
                    remedy=f"Give {least} or more.",
                )
