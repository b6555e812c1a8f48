"""Adaptive pooling, one axis after the other: windows are rectangles."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import ArrayFunction, NumpyFunction
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.adaptive_pool import AdaptivePool


class AdaptivePoolAxes(NumpyFunction):
    """Mean or maximum over the windows of one axis, then of the next."""

    name: ClassVar[str] = "adaptive_pool.numpy.axes"
    kinds: ClassVar[tuple[str, ...]] = ("adaptive_pool",)

    def function(self, spec: LayerSpec) -> ArrayFunction:
        """Pool each spatial axis."""
        kind = spec.kind
        if not isinstance(kind, AdaptivePool):
            raise Unprepared(f"{kind.name} is not an adaptive pooling")
        reduce: Any = np.mean if kind.mode == "mean" else np.max
        windows = [
            (axis, _windows(spec.inputs[0].shape[axis], spec.outputs[0].shape[axis]))
            for axis in range(2, spec.inputs[0].rank)
        ]

        def run(x: Any) -> Any:
            for axis, bounds in windows:
                before = (slice(None),) * axis
                x = np.stack(
                    [reduce(x[(*before, slice(a, b))], axis=axis) for a, b in bounds], axis
                )
            return x

        return run


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    return [(p * size // count, -(-(p + 1) * size // count)) for p in range(count)]
