"""Transposes by oneDNN's reorder, which runs on all threads and takes any layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type, describe
from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.onednn import Arg
from torch2rt.backends.cpu.steps import Operand, Place, StepBuilder
from torch2rt.backends.cpu.tactics.transpose_numpy import permutation_of
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights

MAX_RANK = 6


class TransposeReorder(Tactic):
    """One reorder between permuted descriptors."""

    name: ClassVar[str] = "transpose.onednn.reorder"
    kinds: ClassVar[tuple[str, ...]] = ("transpose",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Dtypes that oneDNN has; not a constant."""
        if spec.epilogue is not None or spec.constants[0] is not None:
            return Refusal("a constant or an epilogue")
        if data_type(spec.inputs[0].dtype) is None or not 0 < spec.inputs[0].rank <= MAX_RANK:
            return Refusal(f"oneDNN does not transpose {spec.inputs[0]}")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Row-major on at least one side."""
        rank = spec.inputs[0].rank
        pairs = [(layout, Layout.PLAIN) for layout in spatial_layouts(rank)]
        pairs += [(Layout.PLAIN, layout) for layout in spatial_layouts(rank)[1:]]
        return [LayoutChoice((first,), (second,)) for first, second in pairs]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the reorder."""
        builder = StepBuilder(spec, weights)
        try:
            permuted = describe(spec.inputs[0]).permute(permutation_of(spec))
            desc = onednn.reorder(permuted, describe(spec.outputs[0]))
        except onednn.OneDNNError as error:
            raise Unprepared(str(error)) from error
        source = Operand(Place("input", 0), permuted)
        builder.execute(desc, {Arg.src: source, Arg.dst: builder.output()})
        return builder.finish()
