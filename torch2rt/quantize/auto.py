"""``precision="auto"``: the fastest mix of precisions whose score stays within a budget.

Tried are, each as an engine of its own that is timed and scored on held-out batches:

    every uniform precision: the 16-bit floats, float32; int8, weights alone in int8, and where a
    device has it float8, each beside the usual float and the fastest one within the budget
    int8 where it is faster, beside the fastest float that is within the budget
    where that loses too much: mixes between it and that float. Each layer has a noise (what its
    8 bits alone do to the outputs) and a gain in time; the price of noise orders the mixes from
    the fastest to the most exact, and bisection finds the first that is within the budget; then
    the same between it and the one before, layer by layer
    the same for float8, where it may be faster than all that is within the budget so far

The fastest engine within the budget is kept, so no uniform precision within it is faster. What
has no layer in 8 bits is the float engine, and not built again. Of L layers at most this many are
built: 4 floats (2 on a CPU), 6 uniform ones in 8 bits (4), and 2 + 6 + log2(L) mixes of each kind.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch2rt.engine.engine import Engine
from torch2rt.errors import PrecisionError
from torch2rt.quantize.choose import WHOLE, LayerChoice, choices, layer_times, point_of
from torch2rt.quantize.layer_times import LayerTimes
from torch2rt.quantize.metric import Judge
from torch2rt.quantize.mix import INT8, RANGED, Mix
from torch2rt.quantize.variants import Tried, Variant, Variants

logger = logging.getLogger(__name__)

Noise: TypeAlias = Mapping[str, float]
# Of a precision and of layers, by name.
NoiseOf: TypeAlias = Callable[[str, list[str]], Noise]

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
        known = next((one for one in self.scored if one.tried.mix == mix), None)
        if known is not None:
            return known
        prepared = self.variants.prepared(mix)
        known = next((one for one in self.scored if one.tried.is_of(prepared)), None)
        if known is not None:
            return known
        variant = self.variants.built(prepared)
        score = self.judge.score(variant.engine)
        scored = Scored(variant.tried, score, score >= self.judge.lowest)
        self.scored.append(scored)
        if self.best is None or scored.is_better_than(self.best):
            self.best, self.engine = scored, variant.engine
        return scored


@dataclass
class _Kind:
    """A kind of 8 bits whose mixes are tried, with what is known of its layers."""

    times: LayerTimes
    noise: Noise


def best_within_budget(
    variants: Variants, judge: Judge, kinds: Sequence[str], noise_of: NoiseOf
) -> Variant:
    """The fastest engine within the judge's budget; its report has the curve and the reasons.

    ``kinds`` are the precisions with 8 bits that the device has. ``noise_of`` tells what layers
    lose, which is asked only where it decides.
    """
    search = _Search(variants, judge)
    floats = _uniform_floats(search)
    within = [name for name, scored in floats.items() if scored.is_within]
    beside = min(within or [EXACT], key=lambda name: floats[name].tried.time_us)
    everywhere: dict[str, Tried] = {}
    for kind in kinds:
        for name in {variants.beside: None, beside: None}:
            if name in floats:
                everywhere[kind] = search.make(Mix(None, name, kind)).tried
    mixed: dict[str, _Kind] = {}
    for kind in kinds:
        if kind not in RANGED or not everywhere[kind].layers:
            continue
        times = layer_times(variants, everywhere[kind], beside)
        times.observe(floats[beside].tried.steps, frozenset())
        if kind == INT8 or _may_be_faster(search, times, everywhere[kind]):
            mixed[kind] = _Kind(times, _try_mixes(search, times, Mix(None, beside, kind), noise_of))
    assert search.best is not None
    assert search.engine is not None
    search.engine.report["choice"] = _report(search, mixed, search.best)
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


def _may_be_faster(search: _Search, times: LayerTimes, everywhere: Tried) -> bool:
    """Whether a kind's fastest mix may be faster than the best so far, by the layers' times."""
    best = search.best
    assert best is not None
    gain_us = times.predicted_us(everywhere.layers) - times.predicted_us(times.fastest())
    return not best.is_within or everywhere.time_us - gain_us < best.tried.time_us


def _try_mixes(search: _Search, times: LayerTimes, everywhere: Mix, noise_of: NoiseOf) -> Noise:
    """Try the fastest mix, and where it loses too much, those between it and none in 8 bits."""

    def is_within(layers: frozenset[str]) -> bool:
        scored = search.make(dataclasses.replace(everywhere, layers=layers))
        times.observe(scored.tried.steps, layers)
        return scored.is_within

    if all(is_within(times.fastest()) for _ in range(2)):  # by what the first has shown, a second
        return {}
    assert everywhere.precision is not None
    noise = noise_of(everywhere.precision, times.names)
    mixes = ladder(times, noise)
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


def _report(search: _Search, mixed: Mapping[str, _Kind], best: Scored) -> dict[str, Any]:
    """All points in order of time, those of the Pareto curve marked, and what each layer got.

    On the curve nothing that is faster scores as high. Times of layers are those of the best
    engine's kind of 8 bits, where its mixes were tried; else of the first kind's.
    """
    tried = best.tried
    is_mixed = tried.precision in mixed or not tried.layers
    kind = mixed.get(tried.precision, next(iter(mixed.values()), None))
    order = sorted(search.scored, key=lambda scored: scored.tried.time_us)
    points = [
        {
            **point_of(scored.tried, tried), "metric": scored.score,
            "is_within": scored.is_within,
            "is_on_curve": all(scored.score > faster.score for faster in order[:number]),
        }
        for number, scored in enumerate(order)
    ]
    rows: list[LayerChoice] = []
    noise: Noise = {}
    if kind is not None:
        noise = kind.noise if is_mixed else {}
        why = {name: _why(name, tried, kind.times, noise) for name in noise}
        whole = {} if is_mixed else dict.fromkeys(kind.times.names, WHOLE)
        rows = choices(search.variants, kind.times, tried, {**whole, **why})
    failed = "" if best.is_within else "; nothing that was tried is that good"
    return {
        "budget": search.judge.summary + failed, "points": points,
        "layers": [{**row.to_json(), "noise_db": _decibels(noise.get(row.layer))} for row in rows],
    }


def _why(name: str, best: Tried, times: LayerTimes, noise: Noise) -> str:
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
