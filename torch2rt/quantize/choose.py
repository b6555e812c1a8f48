"""Which layers get 8 bits, by time: those that are faster so, conversions between them counted.

Two engines are built, one with 8 bits wherever they can be and one with none. The times of their
layers give the mix that should be fastest; it is built too, and what it shows of layers whose
neighbours have another precision may give another mix. The fastest engine is kept, so a network
in 8 bits is never slower than one in float.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch2rt.config import BuildConfig
from torch2rt.quantize.layer_times import LayerTimes
from torch2rt.quantize.mix import INT8, Mix
from torch2rt.quantize.table import CalibrationTable
from torch2rt.quantize.variants import Variant, Variants

logger = logging.getLogger(__name__)

# So many mixes are built at most.
_MIXES = 2
_NEIGHBOURS = "its neighbours have it, and a conversion costs more"
_WHOLE = "the engine as a whole is faster so"
# A mix that takes at most this part of another's time is faster, whatever the noise.
_SURELY = 0.99
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
    return config.precision == INT8 and table is not None and is_free


def fastest_variant(variants: Variants) -> Variant:
    """The fastest engine of all mixes that were tried; its report tells why."""
    beside = variants.beside
    everywhere = variants.make(Mix(None, beside))
    if not everywhere.layers:
        return everywhere
    nowhere = variants.make(Mix(frozenset(), beside))
    times = layer_times(variants, [everywhere, nowhere])
    points = [everywhere, nowhere]
    for _ in range(_MIXES):
        layers = times.fastest()
        if layers in [point.layers for point in points]:
            break
        points.append(variants.make(Mix(layers, beside)))
        times.observe(points[-1].engine, layers)
    best = fastest_of(points)
    best.engine.report["choice"] = {
        "points": [point_of(variant, best) for variant in points],
        "layers": [row.to_json() for row in choices(variants, times, best)],
    }
    return best


def fastest_of(points: Sequence[Variant]) -> Variant:
    """The fastest, an earlier one where others gain no more than timing is off."""
    best = points[0]
    for point in points[1:]:
        if point.time_us < best.time_us * _SURELY:
            best = point
    return best


def layer_times(variants: Variants, built: Collection[Variant]) -> LayerTimes:
    """The times of layers that variants of one network show."""
    beside = next(iter(built)).mix.beside or variants.beside
    names = frozenset().union(*(variant.layers for variant in built))
    times = LayerTimes(variants.network, names, variants.symbols, _FLOAT_BYTES[beside])
    for variant in built:
        times.observe(variant.engine, variant.layers)
    return times


def point_of(variant: Variant, best: Variant) -> dict[str, Any]:
    """A variant in the report."""
    return {
        "name": variant.label, "time_us": round(variant.time_us, 3),
        "int8_layers": len(variant.layers), "is_chosen": variant is best,
    }


def choices(
    variants: Variants, times: LayerTimes, best: Variant, why: Mapping[str, str] | None = None
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
        reason = "it is faster" if is_faster else _NEIGHBOURS if is_mixed else _WHOLE
        rows.append(LayerChoice(
            layer.name, layer.where, INT8 if is_int8 else beside, round(timed.int8_us, 3),
            round(timed.float_us, 3), (why or {}).get(layer.name, reason),
        ))
    return rows
