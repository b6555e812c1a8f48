"""Padding with zeros in every layout: clear the output, then copy into its middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type, describe
from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.onednn import Arg
from torch2rt.backends.cpu.steps import ArrayOperand, Operand, Place, StepBuilder
from torch2rt.backends.cpu.tactics.pad_numpy import pad_kind
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.network.dtype import Array, DType

MAX_RANK = 6


class PadReorder(Tactic):
    """One reorder into a window of the cleared output."""

    name: ClassVar[str] = "pad.onednn.reorder"
    kinds: ClassVar[tuple[str, ...]] = ("pad",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """A constant pad with zeros, dtypes that oneDNN has."""
        kind = pad_kind(spec)
        if kind.mode != "constant" or kind.value != 0 or spec.epilogue is not None:
            return Refusal("more than zeros around it")
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
        source = builder.input(0)
        starts = [concrete(count) for count in pad_kind(spec).before]
        try:
            window = describe(spec.outputs[0]).submemory(spec.inputs[0].shape, starts)
            desc = onednn.reorder(source.desc, window)
        except onednn.OneDNNError as error:
            raise Unprepared(str(error)) from error
        every_byte = TensorSpec((spec.outputs[0].size_bytes,), DType.UINT8)
        builder.call(_clear, ArrayOperand(Place("output", 0), every_byte))
        target = Operand(Place("output", 0), window)
        builder.execute(desc, {Arg.src: source, Arg.dst: target})
        return builder.finish()


def _clear(out: Array) -> None:
    out.fill(0)
