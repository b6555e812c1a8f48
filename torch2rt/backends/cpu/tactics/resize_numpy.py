"""Resizing by numpy, one axis after the other: a weighted sum of picked rows."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import ArrayFunction, NumpyFunction
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.layers.resize import Resize
from torch2rt.network.dtype import Array, DType

# (rows to pick, weight of each or None for 1): one per tap.
Taps = list[tuple[Array, "Array | None"]]
_CUBIC = -0.75  # the coefficient that torch uses


class ResizeAxes(NumpyFunction):
    """One tap per axis for nearest, two for linear, four for cubic."""

    name: ClassVar[str] = "resize.numpy.axes"
    kinds: ClassVar[tuple[str, ...]] = ("resize",)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """Not for integers."""
        is_float = spec.inputs[0].dtype.is_float
        return None if is_float else Refusal("a resize of integers")

    def function(self, spec: LayerSpec) -> ArrayFunction:
        """Indices and weights are computed once."""
        kind = resize_kind(spec)
        dtype = np.float64 if spec.inputs[0].dtype is DType.FLOAT64 else np.float32
        axes = []
        for position, scale in enumerate(kind.scales):
            axis = position + 2
            before, after = spec.inputs[0].shape[axis], spec.outputs[0].shape[axis]
            if before != after or scale is not None:
                taps = _taps(kind, before, after, scale)
                shape = [-1] + [1] * (spec.inputs[0].rank - axis - 1)
                axes.append((axis, [
                    (index, None if weight is None else weight.astype(dtype).reshape(shape))
                    for index, weight in taps
                ]))

        def run(x: Any) -> Any:
            for axis, taps in axes:
                rows = [
                    np.take(x, index, axis) if weight is None
                    else np.take(x, index, axis) * weight
                    for index, weight in taps
                ]
                x = sum(rows[1:], start=rows[0])
            return x

        return run


def resize_kind(spec: LayerSpec) -> Resize:
    """The layer's kind."""
    if not isinstance(spec.kind, Resize):
        raise Unprepared(f"{spec.kind.name} is not a resize")
    return spec.kind


def _taps(kind: Resize, before: int, after: int, scale: float | None) -> Taps:
    position = np.arange(after, dtype=np.float64)
    ratio = before / after if scale is None else 1 / scale
    if kind.mode.startswith("nearest"):
        # torch computes nearest indices in float32, and rounding decides them.
        shift = np.float32(0.5 if kind.mode == "nearest_exact" else 0)
        index = np.floor((position.astype(np.float32) + shift) * np.float32(ratio))
        return [(np.minimum(index.astype(np.int64), before - 1), None)]
    if kind.align_corners:
        at = position * ((before - 1) / (after - 1) if after > 1 else 0.0)
    else:
        at = (position + 0.5) * ratio - 0.5
    if kind.mode == "linear":
        at = np.maximum(at, 0)
        low = np.minimum(np.floor(at).astype(np.int64), before - 1)
        share = np.clip(at - low, 0, 1)
        return [(low, 1 - share), (np.minimum(low + 1, before - 1), share)]
    return _cubic_taps(at, before)


def _cubic_taps(at: Array, before: int) -> Taps:
    low = np.floor(at).astype(np.int64)
    t = at - low
    taps: Taps = []
    for offset, distance in ((-1, t + 1), (0, t), (1, 1 - t), (2, 2 - t)):
        is_near = offset in (0, 1)
        weight = (
            ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1 if is_near
            else ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
        )
        taps.append((np.clip(low + offset, 0, before - 1), weight))
    return taps
