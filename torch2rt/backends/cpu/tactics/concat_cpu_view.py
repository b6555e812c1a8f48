"""Concats that move nothing: the inputs are written straight into the output's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.tactics.concat_numpy import concat_axis
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, View, Weights
from torch2rt.backends.views import ViewsPrepared, slice_offset_bytes


class ConcatView(Tactic):
    """Every input is a part of the output's memory."""

    name: ClassVar[str] = "concat.cpu.view"
    kinds: ClassVar[tuple[str, ...]] = ("concat",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """No constant inputs, and some layout in which each input lies together."""
        if spec.epilogue is not None or any(name is not None for name in spec.constants):
            return Refusal("there is something to compute or a constant to copy")
        return None if self.layouts(spec) else Refusal("the inputs would not lie together")

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Layouts in which each input lies together in the output."""
        count = len(spec.inputs)
        choices = [
            LayoutChoice((layout,) * count, (layout,))
            for layout in spatial_layouts(spec.outputs[0].rank)
        ]
        return [choice for choice in choices if _offsets(spec.with_layouts(choice)) is not None]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view per input."""
        offsets = _offsets(spec)
        if offsets is None:
            raise Unprepared("the inputs would not lie together")
        return ViewsPrepared(tuple(
            View(("input", index), ("output", 0), offset) for index, offset in enumerate(offsets)
        ))


def _offsets(spec: LayerSpec) -> list[int] | None:
    axis = concat_axis(spec)
    offsets = []
    start = 0
    for tensor in spec.inputs:
        starts = [start if other == axis else 0 for other in range(tensor.rank)]
        offset = slice_offset_bytes(spec.outputs[0], starts, tensor.shape)
        if offset is None:
            return None
        offsets.append(offset)
        start += tensor.shape[axis]
    return offsets
