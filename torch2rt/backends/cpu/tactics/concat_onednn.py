"""Concats by oneDNN, in every layout that whole blocks of channels allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type
from torch2rt.backends.cpu.expression_steps import is_usable
from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.onednn import Arg, source_arg
from torch2rt.backends.cpu.steps import Source, StepBuilder
from torch2rt.backends.cpu.tactics.concat_numpy import concat_axis
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights

MAX_RANK = 6


class ConcatDirect(Tactic):
    """One concat primitive."""

    name: ClassVar[str] = "concat.onednn.direct"
    kinds: ClassVar[tuple[str, ...]] = ("concat",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """One dtype, which oneDNN has."""
        if spec.epilogue is not None:
            return Refusal("an epilogue")
        if any(tensor.dtype is not spec.outputs[0].dtype for tensor in spec.inputs):
            return Refusal("inputs of several dtypes")
        if data_type(spec.outputs[0].dtype) is None or spec.outputs[0].rank > MAX_RANK:
            return Refusal(f"oneDNN does not join into {spec.outputs[0]}")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """The same layout everywhere."""
        count = len(spec.inputs)
        return [
            LayoutChoice((layout,) * count, (layout,))
            for layout in spatial_layouts(spec.outputs[0].rank)
        ]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive."""
        builder = StepBuilder(spec, weights)
        sources = [builder.input(index) for index in range(len(spec.inputs))]
        target = builder.output()
        try:
            desc = onednn.concat(
                [source.desc for source in sources], concat_axis(spec), target.desc
            )
        except onednn.OneDNNError as error:
            raise Unprepared(str(error)) from error
        if not is_usable(desc, spec.outputs[0].element_count):
            raise Unprepared("oneDNN has no fast implementation")
        memories: dict[int, Source] = {source_arg(i): source for i, source in enumerate(sources)}
        builder.execute(desc, {**memories, Arg.dst: target})
        return builder.finish()
