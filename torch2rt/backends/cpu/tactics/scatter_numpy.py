"""Writing elements along an axis of a copy, by index."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.layers.scatter import Scatter
from torch2rt.network.dtype import Array


class ScatterElements(NumpyMove):
    """A copy, then numpy.put_along_axis, the other axes cut to the index."""

    name: ClassVar[str] = "scatter.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("scatter",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Elements that replace, not those that combine."""
        if _kind(spec).mode != "set":
            return Refusal(f"elements that combine by {_kind(spec).mode}")
        return super().supports(spec)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """Copy, then write."""
        axis = _kind(spec).axis
        sizes = spec.inputs[1].shape
        cut = tuple(
            slice(None) if position == axis else slice(size) for position, size in enumerate(sizes)
        )
        window = tuple(slice(size) for size in sizes)

        def move(out: Array, x: Array, index: Array, source: Array) -> None:
            out[...] = x
            np.put_along_axis(out[cut], index, source[window], axis)

        return move


def _kind(spec: LayerSpec) -> Scatter:
    if not isinstance(spec.kind, Scatter):
        raise Unprepared(f"{spec.kind.name} is not a scatter")
    return spec.kind
