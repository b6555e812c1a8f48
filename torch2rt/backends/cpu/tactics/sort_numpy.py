"""Sorting and top k by numpy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import ArrayFunction, NumpyFunction
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.sort import Sort
from torch2rt.network.dtype import Array


class SortStable(NumpyFunction):
    """A stable argsort; numpy puts NaN last, which is torch's largest."""

    name: ClassVar[str] = "sort.numpy.stable"
    kinds: ClassVar[tuple[str, ...]] = ("sort",)

    def function(self, spec: LayerSpec) -> ArrayFunction:
        """Values and indices."""
        kind = spec.kind
        if not isinstance(kind, Sort):
            raise Unprepared(f"{kind.name} is not a sort")
        axis, is_descending = kind.axis, kind.is_descending
        kept = (slice(None),) * axis + (slice(spec.outputs[0].shape[axis]),)

        def run(x: Array) -> tuple[Array, Array]:
            if is_descending:
                # Ascending from the end, then read backwards: equal values keep their order.
                order = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
                order = x.shape[axis] - 1 - np.flip(order, axis)
            else:
                order = np.argsort(x, axis=axis, kind="stable")
            order = order[kept]
            return np.take_along_axis(x, order, axis), order

        return run
