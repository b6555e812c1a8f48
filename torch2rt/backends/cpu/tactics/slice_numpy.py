"""Slices by numpy."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.numpy_tactic import ArrayView, NumpyView
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.slice import Slice


class SliceCopy(NumpyView):
    """A copy of the sliced view; steps may be negative."""

    name: ClassVar[str] = "slice.numpy.copy"
    kinds: ClassVar[tuple[str, ...]] = ("slice",)

    def view(self, spec: LayerSpec) -> ArrayView:
        """Python's slices."""
        kind = slice_kind(spec)
        slices = tuple(
            _slice(concrete(start), size, step)
            for start, size, step in zip(
                kind.starts, spec.outputs[0].shape, kind.steps, strict=True
            )
        )
        return lambda array: array[slices]


def slice_kind(spec: LayerSpec) -> Slice:
    """The layer's kind."""
    if not isinstance(spec.kind, Slice):
        raise Unprepared(f"{spec.kind.name} is not a slice")
    return spec.kind


def _slice(start: int, size: int, step: int) -> slice:
    stop = start + size * step
    return slice(start, stop if stop >= 0 else None, step)
