"""Elements along an axis by index."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.gather import Gather
from torch2rt.network.dtype import Array


class GatherElements(NumpyMove):
    """numpy.take_along_axis, the other axes cut to the index; raises IndexError out of range."""

    name: ClassVar[str] = "gather.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("gather",)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """numpy.take_along_axis."""
        if not isinstance(spec.kind, Gather):
            raise Unprepared(f"{spec.kind.name} is not a gather")
        axis = spec.kind.axis
        cut = tuple(
            slice(None) if position == axis else slice(size)
            for position, size in enumerate(spec.inputs[1].shape)
        )

        def move(out: Array, x: Array, index: Array) -> None:
            out[...] = np.take_along_axis(x[cut], index, axis)

        return move
