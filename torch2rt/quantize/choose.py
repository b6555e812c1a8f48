"""Which layers get 8 bits, by time: those that are faster so, conversions between them counted.

Two engines are built, one with 8 bits wherever they can be and one with none. The times of their
layers give the mix that should be fastest; if that promises something it is built too, and what it
shows of layers whose neighbours have another precision may give another mix. The fastest engine is
kept, so a network in 8 bits is never slower than one in float.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch2rt.config import BuildConfig
from torch2rt.quantize.layer_times import LayerTimes
from torch2rt.quantize.mix import RANGED, Mix
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.variants import Tried, Variant, Variants

logger = logging.getLogger(__name__)

# So many mixes are built at most.
_MIXES = 2
# A mix that promises less, as a part of an engine's time, would not be surely faster.
_LEAST_GAIN = 0.01
_NEIGHBOURS = "its neighbours have it, and a conversion costs more"
WHOLE = "the engine as a whole is faster so"
_FLOAT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """What a layer got, and its times in microseconds in 8 bits and in float."""

    layer: str
    where: str
    precision: str
    int8_us: float
    float_us: float
    why: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def chooses_by_time(config: BuildConfig, table: CalibrationTable | None) -> bool:
    """Whether layers get 8 bits only where they are faster so.

    Not where the user says it layer by layer, nor where there is no time to time both.
    """
    is_free = not config.overrides.is_by_layer and config.tune_budget_s is None
    return config.precision in RANGED and table is not None and is_free


def fastest_variant(variants: Variants) -> Variant:
    """The fastest engine of all mixes that were tried; its report tells why."""
    beside = variants.beside
    best = variants.make(Mix(None, beside))
    if not best.tried.layers:
        return best
    tried = [best.tried]
    mix = Mix(frozenset(), beside)
    times = layer_times(variants, best.tried, beside)
    while len(tried) <= 1 + _MIXES and mix.layers not in [known.layers for known in tried]:
        made = variants.make(mix)
        tried.append(made.tried)
        times.observe(made.tried.steps, made.tried.layers)
        best = made if made.tried.is_faster_than(best.tried) else best
        fastest = times.fastest()
        mix = Mix(fastest, beside)
        gain_us = times.predicted_us(best.tried.layers) - times.predicted_us(fastest)
        if gain_us < _LEAST_GAIN * best.tried.time_us:
            break
    best.engine.report["choice"] = {
        "points": [point_of(known, best.tried) for known in tried],
        "layers": [row.to_json() for row in choices(variants, times, best.tried)],
    }
    return best


def layer_times(variants: Variants, everywhere: Tried, beside: str) -> LayerTimes:
    """The times of layers, as far as an engine with 8 bits wherever they can be shows them."""
    times = LayerTimes(
        variants.network, everywhere.layers, variants.symbols, _FLOAT_BYTES[beside]
    )
    times.observe(everywhere.steps, everywhere.layers)
    return times


def point_of(tried: Tried, best: Tried) -> dict[str, Any]:
    """What was tried, in the report."""
    return {
        "name": tried.label, "time_us": round(tried.time_us, 3),
        "int8_layers": len(tried.layers), "is_chosen": tried is best,
    }


def choices(
    variants: Variants, times: LayerTimes, best: Tried, why: Mapping[str, str] | None = None
) -> list[LayerChoice]:
    """What each layer got that can have 8 bits, and the reason: times, where none is given."""
    beside = best.mix.beside or variants.beside
    rows = []
    for layer in variants.network.layers:
        if layer.name not in times.names:
            continue
        timed = times.of_layer(layer.name)
        is_int8 = layer.name in best.layers
        is_faster = (timed.int8_us < timed.float_us) == is_int8
        is_mixed = 0 < len(best.layers) < len(times.names)
        reason = "it is faster" if is_faster else _NEIGHBOURS if is_mixed else WHOLE
        rows.append(LayerChoice(
            layer.name, layer.where, best.precision if is_int8 else beside, round(timed.int8_us, 3),
            round(timed.float_us, 3), (why or {}).get(layer.name, reason),
        ))
    return rows
