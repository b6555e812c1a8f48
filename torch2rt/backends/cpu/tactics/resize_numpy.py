"""Resizing by numpy, one axis after the other: a weighted sum of picked rows."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import ArrayFunction, NumpyFunction
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.resize_taps import resize_taps
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.resize import Resize
from torch2rt.network.dtype import DType


class ResizeAxes(NumpyFunction):
    """One tap per axis for nearest, two for linear, four for cubic, more if antialiased."""

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
            taps = resize_taps(kind, before, after, scale)
            shape = [-1] + [1] * (spec.inputs[0].rank - axis - 1)
            weights = [None] if taps.weights is None else [
                weight.astype(dtype).reshape(shape) for weight in taps.weights
            ]
            axes.append((axis, list(zip(taps.rows, weights, strict=True))))

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
    return kind_of(spec, Resize)
