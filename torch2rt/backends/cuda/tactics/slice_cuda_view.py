"""Slices that move nothing: the part is made of aligned runs of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.buffer import VECTOR_BYTES
from torch2rt.backends.cuda.cpp.moves import same_layouts
from torch2rt.backends.kinds import concrete, kind_of
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, View, Weights
from torch2rt.backends.views import Part, ViewsPrepared, pitched_part
from torch2rt.layers.slice import Slice


class SliceView(Tactic):
    """The output is a part of the input's memory: dense, or runs that are evenly apart."""

    name: ClassVar[str] = "slice.cuda.view"
    kinds: ClassVar[tuple[str, ...]] = ("slice",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Some layout in which the part is made of aligned runs."""
        if spec.epilogue is not None or spec.constants[0] is not None:
            return Refusal("there is something to compute or no memory to view")
        return None if self.layouts(spec) else Refusal("the part is not made of aligned runs")

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Layouts in which the part is made of aligned runs."""
        return [c for c in same_layouts(spec) if _part(spec.with_layouts(c)) is not None]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Where the part of a pitched input is such runs as well."""
        return _part(spec) is not None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view."""
        part = _part(spec)
        if part is None:
            raise Unprepared("the part is not made of aligned runs")
        view = View(("output", 0), ("input", 0), part.offset_bytes, part.run, part.pitch)
        return ViewsPrepared((view,))


def _part(spec: LayerSpec) -> Part | None:
    kind = kind_of(spec, Slice)
    starts = [concrete(start) for start in kind.starts]
    part = pitched_part(spec.inputs[0], starts, spec.outputs[0].shape, kind.steps)
    item = spec.inputs[0].dtype.itemsize_bytes
    return part if part is not None and part.is_aligned(item, VECTOR_BYTES) else None
