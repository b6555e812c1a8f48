"""``precision="auto"``: the fastest mix of precisions whose score stays within a budget.

Tried are, each as an engine of its own that is timed and scored on held-out batches:

    every uniform precision: 8 bits, the 16-bit floats, float32
    8 bits where they are faster, beside the fastest float that is within the budget
    where that loses too much: mixes between it and that float. Each layer has a noise (what its
    8 bits alone do to the outputs) and a gain in time; the price of noise orders the mixes from
    the fastest to the most exact, and bisection finds the first that is within the budget.

The fastest engine within the budget is kept, so no uniform precision within it is faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch2rt.quantize.choose import choices, fastest_of, layer_times, point_of
from torch2rt.quantize.layer_times import LayerTimes
from torch2rt.quantize.metric import Judge
from torch2rt.quantize.mix import Mix
from torch2rt.quantize.variants import Variant, Variants

Noise: TypeAlias = Mapping[str, float]

# Uniform floats beside 8 bits, by backend.
_FLOATS = {"cpu": ("bf16", "fp32"), "cuda": ("fp16", "bf16", "tf32", "fp32")}
EXACT = "fp32"
# Prices of noise, as shares of the float network's time for all noise there is.
_PRICES = tuple(10 ** (exponent / 4) for exponent in range(-12, 25))


@dataclass(frozen=True)
class Scored:
    """A variant with its score; ``is_within`` the budget or not."""

    variant: Variant
    score: float
    is_within: bool


class _Search:
    """The variants that were tried."""

    def __init__(self, variants: Variants, judge: Judge) -> None:
        self.variants, self.judge = variants, judge
        self.tried: list[Scored] = []

    def make(self, mix: Mix) -> Scored:
        """Build, time and score a mix, or find it among those that were."""
        for known in self.tried:
            layers = (known.variant.layers, known.variant.mix.layers)
            if mix.layers in layers and mix.beside == known.variant.mix.beside:
                return known
        variant = self.variants.make(mix)
        score = self.judge.score(variant.engine)
        self.tried.append(Scored(variant, score, score >= self.judge.lowest))
        return self.tried[-1]

    def best(self) -> Scored:
        """The fastest within the budget; the most exact where nothing is."""
        within = [scored for scored in self.tried if scored.is_within]
        if not within:
            return max(self.tried, key=lambda scored: scored.score)
        fastest = fastest_of([scored.variant for scored in within])
        return next(scored for scored in within if scored.variant is fastest)


def best_within_budget(
    variants: Variants, judge: Judge, noise_of: Callable[[list[str]], Noise]
) -> Variant:
    """The fastest engine within the judge's budget; its report has the curve and the reasons.

    ``noise_of`` tells what layers lose, which is asked only where it decides.
    """
    search = _Search(variants, judge)
    floats = [search.make(Mix(frozenset(), name)) for name in _FLOATS[variants.target]]
    search.make(Mix(None, variants.beside))
    beside = min(
        (scored for scored in floats if scored.is_within), default=floats[-1],
        key=lambda scored: scored.variant.time_us,
    )
    everywhere = search.make(Mix(None, beside.variant.mix.beside))
    noise: Noise = {}
    times: LayerTimes | None = None
    if everywhere.variant.layers:
        times = layer_times(variants, [everywhere.variant, beside.variant])
        noise = _try_mixes(search, times, beside.variant.mix.beside, noise_of)
    best = search.best()
    best.variant.engine.report["choice"] = _report(search, times, best, noise)
    return best.variant


def _try_mixes(
    search: _Search, times: LayerTimes, beside: str | None,
    noise_of: Callable[[list[str]], Noise],
) -> Noise:
    """Try the fastest mix, and where it loses too much, those between it and none in 8 bits."""
    for _ in range(2):
        fastest = times.fastest()
        scored = search.make(Mix(fastest, beside))
        if not scored.is_within:
            break
        times.observe(scored.variant.engine, fastest)
    else:
        return {}
    noise = noise_of(times.names)
    mixes = ladder(times, noise)
    low, high = 0, len(mixes) - 1  # the last has no layer in 8 bits
    while low < high:
        middle = (low + high) // 2
        scored = search.make(Mix(mixes[middle], beside))
        times.observe(scored.variant.engine, mixes[middle])
        low, high = (low, middle) if scored.is_within else (middle + 1, high)
    return noise


def ladder(times: LayerTimes, noise: Noise) -> list[frozenset[str]]:
    """Mixes from the fastest to none in 8 bits, each with less noise than the one before."""
    total = sum(noise.values())
    mixes = [times.fastest()]
    if total > 0:
        scale_us = times.predicted_us(frozenset()) / total
        mixes += [times.fastest(noise, price * scale_us) for price in _PRICES]
    mixes.append(frozenset())
    found: list[frozenset[str]] = []
    least = math.inf
    for mix in mixes:
        lost = sum(noise.get(name, 0.0) for name in mix)
        if lost < least or (not mix and found[-1]):
            found.append(mix)
            least = lost
    return found


def _report(
    search: _Search, times: LayerTimes | None, best: Scored, noise: Noise
) -> dict[str, Any]:
    """All points in order of time, those of the Pareto curve marked, and what each layer got.

    On the curve nothing that is faster scores as high.
    """
    order = sorted(search.tried, key=lambda scored: scored.variant.time_us)
    points = [
        {
            **point_of(scored.variant, best.variant), "metric": scored.score,
            "is_within": scored.is_within,
            "is_on_curve": all(scored.score > faster.score for faster in order[:number]),
        }
        for number, scored in enumerate(order)
    ]
    why = {name: _why(name, best.variant, times, noise) for name in noise}
    rows = choices(search.variants, times, best.variant, why) if times is not None else []
    return {
        "budget": search.judge.summary, "points": points,
        "layers": [{**row.to_json(), "noise_db": _decibels(noise.get(row.layer))} for row in rows],
    }


def _why(name: str, best: Variant, times: LayerTimes | None, noise: Noise) -> str:
    assert times is not None
    timed, loss = times.of_layer(name), _decibels(noise[name])
    lost = "and loses nothing" if loss is None else f"and alone loses {loss:.0f} dB"
    gain_us = timed.float_us - timed.int8_us
    if name in best.layers:
        return f"8 bits gain {gain_us:.1f} us {lost}"
    if gain_us <= 0:
        return "it is faster"
    return f"8 bits would gain {gain_us:.1f} us {lost}"


def _decibels(noise: float | None) -> float | None:
    """Noise against the signal of the outputs, in dB; None for none."""
    return round(10 * math.log10(noise), 1) if noise else None
