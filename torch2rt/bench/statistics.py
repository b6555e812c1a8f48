"""Order statistics of timings. Medians and quantiles only: timings have long right tails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q`` quantile (0 to 1) of ``values``, linear between the two nearest.

    Raises:
        ValueError: ``values`` is empty, or ``q`` lies outside 0 to 1.
    """
    if not values:
        raise ValueError("quantile of no values")
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q={q} is not between 0 and 1")
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = int(position)
    if below + 1 == len(ordered):
        return ordered[below]
    weight = position - below
    return ordered[below] * (1.0 - weight) + ordered[below + 1] * weight


def median(values: Sequence[float]) -> float:
    """The middle of ``values``, or the mean of the two middle ones."""
    return quantile(values, 0.5)


@dataclass(frozen=True, slots=True)
class Summary:
    """The rounds of one contender: each round counts once, by its median. Milliseconds."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int


def summarise(round_medians_ms: Sequence[float]) -> Summary:
    """Median and spread over the rounds.

    Raises:
        ValueError: there is no round.
    """
    return Summary(
        median_ms=median(round_medians_ms),
        p10_ms=quantile(round_medians_ms, 0.1),
        p90_ms=quantile(round_medians_ms, 0.9),
        rounds=len(round_medians_ms),
    )
