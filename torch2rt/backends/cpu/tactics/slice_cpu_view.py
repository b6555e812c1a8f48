"""Slices that move nothing: the part's bytes lie together in the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.tactics.slice_numpy import slice_kind
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, View, Weights
from torch2rt.backends.views import ViewsPrepared, slice_offset_bytes


class SliceView(Tactic):
    """The output is a part of the input's memory."""

    name: ClassVar[str] = "slice.cpu.view"
    kinds: ClassVar[tuple[str, ...]] = ("slice",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Steps of 1, and some layout in which the part lies together."""
        if spec.epilogue is not None or spec.constants[0] is not None:
            return Refusal("there is something to compute or no memory to view")
        return None if self.layouts(spec) else Refusal("the part's bytes do not lie together")

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Layouts in which the part lies together."""
        return [
            LayoutChoice((layout,), (layout,)) for layout in spatial_layouts(spec.inputs[0].rank)
            if _offset(spec.with_layouts(LayoutChoice((layout,), (layout,)))) is not None
        ]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view."""
        offset = _offset(spec)
        if offset is None:
            raise Unprepared("the part's bytes do not lie together")
        return ViewsPrepared((View(("output", 0), ("input", 0), offset),))


def _offset(spec: LayerSpec) -> int | None:
    kind = slice_kind(spec)
    sizes = spec.outputs[0].shape
    steps = zip(kind.steps, sizes, strict=True)
    if any(step != 1 and size > 1 for step, size in steps):
        return None
    return slice_offset_bytes(spec.inputs[0], [concrete(start) for start in kind.starts], sizes)
