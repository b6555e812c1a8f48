"""Writing to a slice of a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.slice_scatter import SliceScatter
from torch2rt.network.dtype import Array


class SliceScatterCopy(NumpyMove):
    """A copy, then an assignment to a slice of it."""

    name: ClassVar[str] = "slice_scatter.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("slice_scatter",)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """Copy, then write."""
        if not isinstance(spec.kind, SliceScatter):
            raise Unprepared(f"{spec.kind.name} is not a slice_scatter")
        sizes = spec.inputs[1].shape
        slices = tuple(
            slice(concrete(start), concrete(start) + size * step, step)
            for start, size, step in zip(spec.kind.starts, sizes, spec.kind.steps, strict=True)
        )

        def move(out: Array, x: Array, source: Array) -> None:
            out[...] = x
            out[slices] = source

        return move
