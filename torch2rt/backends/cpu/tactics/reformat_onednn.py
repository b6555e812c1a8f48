"""Reformats by oneDNN's reorder: any layout to any other, with change of dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type, lie_alike
from torch2rt.backends.cpu.onednn import Arg
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights


class Reorder(Tactic):
    """One reorder primitive."""

    name: ClassVar[str] = "reformat.onednn.reorder"
    kinds: ClassVar[tuple[str, ...]] = ("reformat",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Dtypes that oneDNN has; integers are not converted, since it saturates them."""
        source, target = spec.inputs[0].dtype, spec.outputs[0].dtype
        for dtype in (source, target):
            if data_type(dtype) is None:
                return Refusal(f"oneDNN has no {dtype.value}")
        if source is not target and not (source.is_float and target.is_float):
            return Refusal(f"oneDNN saturates where torch wraps: {source.value} to {target.value}")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Those that the reformat is for."""
        return own_layouts(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the reorder."""
        builder = StepBuilder(spec, weights)
        source, target = builder.input(0), builder.output(0)
        try:
            desc = onednn.reorder(source.desc, target.desc)
        except onednn.OneDNNError as error:
            raise Unprepared(str(error)) from error
        builder.execute(desc, {Arg.src: source, Arg.dst: target})
        return builder.finish()


def own_layouts(spec: LayerSpec) -> Sequence[LayoutChoice]:
    """The layouts that the spec already has."""
    return (
        LayoutChoice(
            tuple(tensor.layout for tensor in spec.inputs),
            tuple(tensor.layout for tensor in spec.outputs),
        ),
    )


def keeps_bytes(spec: LayerSpec) -> bool:
    """Whether input and output mean the same bytes."""
    return lie_alike(spec.inputs[0], spec.outputs[0])
