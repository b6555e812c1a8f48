"""Where resized pixels come from: the input rows of every output row, and their weights.

Follows torch: ATen/native/UpSample.h for positions, UpSampleKernel.cpp for antialiasing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torch2rt.layers.resize import Resize
from torch2rt.network.dtype import Array

_CUBIC = -0.75  # the coefficient that torch uses
_CUBIC_ANTIALIAS = -0.5  # and that of its antialiased form, which is PIL's


@dataclass(frozen=True)
class Taps:
    """Output row p is the sum over t of ``weights[t, p]`` times input row ``rows[t, p]``.

    ``rows``: int64 [taps, rows of the output]; ``weights``: float64, None where all are 1.
    """

    rows: Array
    weights: Array | None


def resize_taps(kind: Resize, before: int, after: int, scale: float | None) -> Taps:
    """The taps of one axis of ``before`` rows that gets ``after``."""
    position = np.arange(after, dtype=np.float64)
    ratio = before / after if scale is None else 1 / scale
    if kind.mode.startswith("nearest"):
        # torch computes nearest indices in float32, and rounding decides them.
        shift = np.float32(0.5 if kind.mode == "nearest_exact" else 0)
        row = np.floor((position.astype(np.float32) + shift) * np.float32(ratio))
        return Taps(np.minimum(row.astype(np.int64), before - 1)[None], None)
    if before == after and kind.mode != "cubic":
        return Taps(np.arange(after)[None], None)  # whatever the scale
    if kind.align_corners:
        ratio = (before - 1) / (after - 1) if after > 1 else 0.0
    if kind.mode.endswith("_antialias"):
        return _antialiased(kind, before, after, ratio)
    at = position * ratio if kind.align_corners else (position + 0.5) * ratio - 0.5
    return _cubic(at, before) if kind.mode == "cubic" else _linear(at, before)


def _linear(at: Array, before: int) -> Taps:
    at = np.maximum(at, 0)
    low = np.minimum(np.floor(at).astype(np.int64), before - 1)
    share = np.clip(at - low, 0, 1)
    return Taps(
        np.stack([low, np.minimum(low + 1, before - 1)]), np.stack([1 - share, share])
    )


def _cubic(at: Array, before: int) -> Taps:
    low = np.floor(at).astype(np.int64)
    offsets = range(-1, 3)
    rows = np.stack([np.clip(low + offset, 0, before - 1) for offset in offsets])
    return Taps(rows, np.stack([_cubic_filter(at - low - offset, _CUBIC) for offset in offsets]))


def _cubic_filter(distance: Array, a: float) -> Array:
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _triangle_filter(distance: Array) -> Array:
    values: Array = np.maximum(1 - np.abs(distance), 0.0)
    return values


def _antialiased(kind: Resize, before: int, after: int, ratio: float) -> Taps:
    is_cubic = kind.mode.startswith("cubic")
    filter: Callable[[Array], Array] = (
        (lambda x: _cubic_filter(x, _CUBIC_ANTIALIAS)) if is_cubic else _triangle_filter
    )
    stretch = max(ratio, 1.0)
    support = (2.0 if is_cubic else 1.0) * stretch
    # As torch has it, aligned corners change the ratio alone.
    centre = (np.arange(after) + 0.5) * ratio
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), before)
    rows = first + np.arange(int((last - first).max()))[:, None]
    weights = filter((rows - centre + 0.5) / stretch)
    weights = np.where(rows < last, weights, 0.0)
    return Taps(np.minimum(rows, before - 1), weights / weights.sum(0))
