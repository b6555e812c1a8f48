"""Slices by oneDNN's reorder, in every layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type, describe
from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.onednn import Arg
from torch2rt.backends.cpu.steps import Operand, Place, StepBuilder
from torch2rt.backends.cpu.tactics.slice_numpy import slice_kind
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights

MAX_RANK = 6


class SliceReorder(Tactic):
    """One reorder from a window of the input."""

    name: ClassVar[str] = "slice.onednn.reorder"
    kinds: ClassVar[tuple[str, ...]] = ("slice",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Steps of 1, dtypes that oneDNN has, not a constant."""
        if spec.epilogue is not None or spec.constants[0] is not None:
            return Refusal("a constant or an epilogue")
        if any(step != 1 for step in slice_kind(spec).steps):
            return Refusal("a step other than 1")
        if data_type(spec.inputs[0].dtype) is None or not 0 < spec.inputs[0].rank <= MAX_RANK:
            return Refusal(f"oneDNN does not copy {spec.inputs[0]}")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """The same layout on both sides."""
        layouts = spatial_layouts(spec.inputs[0].rank)
        return [LayoutChoice((layout,), (layout,)) for layout in layouts]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the reorder."""
        builder = StepBuilder(spec, weights)
        starts = [concrete(start) for start in slice_kind(spec).starts]
        try:
            window = describe(spec.inputs[0]).submemory(spec.outputs[0].shape, starts)
            desc = onednn.reorder(window, describe(spec.outputs[0]))
        except onednn.OneDNNError as error:
            raise Unprepared(str(error)) from error
        source = Operand(Place("input", 0), window)
        builder.execute(desc, {Arg.src: source, Arg.dst: builder.output()})
        return builder.finish()
