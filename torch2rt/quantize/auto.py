"""``precision="auto"``: the fastest mix of precisions whose score stays within a budget.

Tried are, each as an engine of its own that is timed and scored on held-out batches:

    every uniform precision: 8 bits, the 16-bit floats, float32
    8 bits where they are faster, beside the fastest float that is within the budget
    where that loses too much: mixes between it and that float. Each layer has a noise (what its
    8 bits alone do to the outputs) and a gain in time; the price of noise orders the mixes from
    the fastest to the most exact, and bisection finds the first that is within the budget; then
    the same between it and the one before, layer by layer.

The fastest engine within the budget is kept, so no uniform precision within it is faster.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch2rt.engine.engine import Engine
from torch2rt.errors import PrecisionError
from torch2rt.quantize.choose import choices, layer_times, point_of
from torch2rt.quantize.layer_times import LayerTimes
from torch2rt.quantize.metric import Judge
from torch2rt.quantize.mix import Mix
from torch2rt.quantize.variants import Tried, Variant, Variants

logger = logging.getLogger(__name__)

Noise: TypeAlias = Mapping[str, float]

# Uniform floats beside 8 bits, by backend.
_FLOATS = {"cpu": ("bf16", "fp32"), "cuda": ("fp16", "bf16", "tf32", "fp32")}
EXACT = "fp32"
_SMALLEST = 1e-12
# Prices of noise, as shares of the float network's time for all noise there is.
_PRICES = tuple(10 ** (exponent / 4) for exponent in range(-12, 25))


@dataclass(frozen=True)
class Scored:
    """What was tried with its score; ``is_within`` the budget or not."""

    tried: Tried
    score: float
    is_within: bool

    def is_better_than(self, other: Scored) -> bool:
        """Whether it is faster within the budget, or beyond it more exact."""
        if self.is_within and other.is_within:
            return self.tried.is_faster_than(other.tried)
        return self.score > other.score if not other.is_within else False


class _Search:
    """What was tried, and the engine that is best so far."""

    def __init__(self, variants: Variants, judge: Judge) -> None:
        self.variants, self.judge = variants, judge
        self.scored: list[Scored] = []
        self.best: Scored | None = None
        self.engine: Engine | None = None

    def make(self, mix: Mix) -> Scored:
        """Build, time and score a mix, or find it among those that were."""
        for known in self.scored:
            layers = (known.tried.layers, known.tried.mix.layers)
            if mix.layers in layers and mix.beside == known.tried.mix.beside:
                return known
        variant = self.variants.make(mix)
        score = self.judge.score(variant.engine)
        scored = Scored(variant.tried, score, score >= self.judge.lowest)
        self.scored.append(scored)
        if self.best is None or scored.is_better_than(self.best):
            self.best, self.engine = scored, variant.engine
        return scored


def best_within_budget(
    variants: Variants, judge: Judge, noise_of: Callable[[list[str]], Noise]
) -> Variant:
    """The fastest engine within the judge's budget; its report has the curve and the reasons.

    ``noise_of`` tells what layers lose, which is asked only where it decides.
    """
    search = _Search(variants, judge)
    floats = _uniform_floats(search)
    if variants.beside in floats:
        search.make(Mix(None, variants.beside))
    within = [name for name, scored in floats.items() if scored.is_within]
    beside = min(within or [EXACT], key=lambda name: floats[name].tried.time_us)
    everywhere = search.make(Mix(None, beside)).tried
    noise: Noise = {}
    times: LayerTimes | None = None
    if everywhere.layers:
        times = layer_times(variants, everywhere, beside)
        times.observe(floats[beside].tried.steps, frozenset())
        noise = _try_mixes(search, times, beside, noise_of)
    assert search.best is not None
    assert search.engine is not None
    search.engine.report["choice"] = _report(search, times, search.best, noise)
    return Variant(search.best.tried, search.engine)


def _uniform_floats(search: _Search) -> dict[str, Scored]:
    """The engines in one float; those left out that cannot hold a weight of the model."""
    floats = {}
    for name in _FLOATS[search.variants.target]:
        try:
            floats[name] = search.make(Mix(frozenset(), name))
        except PrecisionError as error:
            logger.info("%s is left out: %s", name, error)
    return floats


def _try_mixes(
    search: _Search, times: LayerTimes, beside: str,
    noise_of: Callable[[list[str]], Noise],
) -> Noise:
    """Try the fastest mix, and where it loses too much, those between it and none in 8 bits."""
    for _ in range(2):
        fastest = times.fastest()
        scored = search.make(Mix(fastest, beside))
        times.observe(scored.tried.steps, fastest)
        if not scored.is_within:
            break
    else:
        return {}
    noise = noise_of(times.names)
    mixes = ladder(times, noise)

    def is_within(layers: frozenset[str]) -> bool:
        scored = search.make(Mix(layers, beside))
        times.observe(scored.tried.steps, layers)
        return scored.is_within

    first = _first(mixes[:-1], is_within)  # the last has no layer in 8 bits, and is known
    if first > 0:
        steps = steps_between(times, noise, mixes[first - 1], mixes[first])
        _first(steps[1:], is_within)  # the first of them is too fast
    return noise


def _first(mixes: Sequence[frozenset[str]], is_within: Callable[[frozenset[str]], bool]) -> int:
    """The number of the first mix within the budget, by bisection; how many there are if none."""
    low, high = 0, len(mixes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_within(mixes[middle]) else (middle + 1, high)
    return low


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


def steps_between(
    times: LayerTimes, noise: Noise, fast: frozenset[str], exact: frozenset[str]
) -> list[frozenset[str]]:
    """Mixes from a fast one to an exact one, without both; layers of least gain for noise first."""
    chain = [exact]
    rest = [unit for unit in times.units() if unit[0] in fast - exact]
    while rest:
        before_us = times.predicted_us(chain[-1])

        def worth(unit: tuple[str, ...], last: frozenset[str] = chain[-1],
                  last_us: float = before_us) -> float:
            gain_us = last_us - times.predicted_us(last | set(unit))
            return gain_us / max(sum(noise[name] for name in unit), _SMALLEST)

        rest.sort(key=worth)
        chain.append(chain[-1] | set(rest.pop()))
    return chain[:0:-1]


def _report(
    search: _Search, times: LayerTimes | None, best: Scored, noise: Noise
) -> dict[str, Any]:
    """All points in order of time, those of the Pareto curve marked, and what each layer got.

    On the curve nothing that is faster scores as high.
    """
    order = sorted(search.scored, key=lambda scored: scored.tried.time_us)
    points = [
        {
            **point_of(scored.tried, best.tried), "metric": scored.score,
            "is_within": scored.is_within,
            "is_on_curve": all(scored.score > faster.score for faster in order[:number]),
        }
        for number, scored in enumerate(order)
    ]
    why = {name: _why(name, best.tried, times, noise) for name in noise}
    rows = choices(search.variants, times, best.tried, why) if times is not None else []
    failed = "" if best.is_within else "; nothing that was tried is that good"
    return {
        "budget": search.judge.summary + failed, "points": points,
        "layers": [{**row.to_json(), "noise_db": _decibels(noise.get(row.layer))} for row in rows],
    }


def _why(name: str, best: Tried, times: LayerTimes | None, noise: Noise) -> str:
    assert times is not None
    timed, loss = times.of_layer(name), _decibels(noise[name])
    lost = "and lose nothing" if loss is None else f"at a noise of {loss:.0f} dB"
    gain_us = timed.float_us - timed.int8_us
    if name in best.layers:
        return f"8 bits gain {gain_us:.1f} us {lost}"
    if gain_us <= 0:
        return "it is faster"
    return f"8 bits would gain {gain_us:.1f} us {lost}"


def _decibels(noise: float | None) -> float | None:
    """Noise against the signal of the outputs, in dB; None for none."""
    return round(10 * math.log10(noise), 1) if noise else None
