"""What is corrected of a layer when it is quantized: how its weight is rounded, and its bias.

Corrections are made from calibration data and travel in the calibration table, so that the table
alone gives the same engine.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torch2rt.network.dtype import Array
from torch2rt.quantize.errors import CalibrationError

LARGEST = 127
_FIELDS = ("shape", "rounding", "bias")
_MOST_VALUES = 1 << 31


@dataclass(frozen=True, eq=False)
class Correction:
    """Of one layer, known by its output.

    ``rounding`` [shape of the weight], int8, is added to the weight's nearest integers; None
    leaves them. ``bias`` [output channels], float32, is added to the sum of products.
    """

    bias: Array
    rounding: Array | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Correction) and to_json(self) == to_json(other)

    def __hash__(self) -> int:
        return hash(self.bias.tobytes())

    def weight(self, nearest: Array) -> Array:
        """The weight's integers, of the nearest ones; CalibrationError for another shape."""
        if self.rounding is None:
            return nearest
        if self.rounding.shape != nearest.shape:
            raise CalibrationError(
                where="table", reason=f"a correction of a weight has the shape "
                f"{list(self.rounding.shape)}, the weight has {list(nearest.shape)}",
                remedy="Calibrate again.",
            )
        moved = nearest.astype(np.int16) + self.rounding
        return np.clip(moved, -LARGEST, LARGEST).astype(np.int8)


def to_json(correction: Correction) -> dict[str, object]:
    """As JSON values; numbers are packed, as those of histograms are."""
    rounding = correction.rounding
    return {
        "shape": list(rounding.shape) if rounding is not None else [],
        "rounding": _packed(rounding.astype(np.int8)) if rounding is not None else "",
        "bias": _packed(correction.bias.astype("<f4")),
    }


def from_json(data: object) -> Correction:
    """Inverse of `to_json`; ValueError says what is wrong with anything else."""
    if not isinstance(data, Mapping) or set(data) != {*_FIELDS}:
        raise ValueError(f"a correction must have {', '.join(_FIELDS)}")
    shape, rounding, bias = (data[name] for name in _FIELDS)
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("the shape of a correction is no list of sizes")
    values = np.frombuffer(_unpacked(bias, None), "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the bias of a correction is not finite")
    if not shape:
        return Correction(values)
    count = int(np.prod([float(n) for n in shape]))
    if count > _MOST_VALUES:
        raise ValueError("the shape of a correction is larger than any weight")
    steps = np.frombuffer(_unpacked(rounding, count), np.int8).reshape(shape)
    return Correction(values, steps)


def scales_to_json(scales: Mapping[str, Array]) -> dict[str, str]:
    """Positive factors of channels by tensor, packed."""
    return {name: _packed(scales[name].astype("<f4")) for name in sorted(scales)}


def scales_from_json(data: object) -> dict[str, Array]:
    """Inverse of `scales_to_json`; ValueError says what is wrong with anything else."""
    if not isinstance(data, Mapping):
        raise ValueError("the scales of channels are no object")
    scales = {}
    for name, text in data.items():
        values = np.frombuffer(_unpacked(text, None), "<f4").astype(np.float32)
        if not np.isfinite(values).all() or not (values > 0).all():
            raise ValueError(f"the scales of channels of {name!r} are not positive")
        scales[name] = values
    return scales


def _packed(values: Array) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def _unpacked(text: object, size: int | None) -> bytes:
    """The bytes of a packed array, ``size`` of them where that is known."""
    if not isinstance(text, str):
        raise ValueError("the numbers of a correction are no text")
    most = size if size is not None else 1 << 24
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(base64.b64decode(text, validate=True), most)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ValueError(f"the numbers of a correction are damaged ({error})") from error
    is_whole = len(raw) == size if size is not None else len(raw) % 4 == 0
    if not is_whole or not inflate.eof or inflate.unused_data:
        raise ValueError("the numbers of a correction are damaged (wrong size)")
    return raw
