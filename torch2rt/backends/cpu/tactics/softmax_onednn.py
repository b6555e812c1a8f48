"""Softmax and its logarithm by oneDNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.epilogue import Fusion, add_fused, choice
from torch2rt.backends.cpu.layouts import is_supported_float, spatial_layouts
from torch2rt.backends.cpu.onednn import Algorithm, Arg, Attributes, MemoryDesc, PrimitiveDesc
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.softmax import Softmax

MAX_RANK = 6


class DirectSoftmax(Tactic):
    """One softmax primitive."""

    name: ClassVar[str] = "softmax.onednn.direct"
    kinds: ClassVar[tuple[str, ...]] = ("softmax",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats that the CPU computes in."""
        if spec.inputs[0].rank > MAX_RANK:
            return Refusal(f"{spec.inputs[0].rank} axes")
        return is_supported_float(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """The same on both sides."""
        return [choice(spec, (layout,), layout) for layout in spatial_layouts(spec.inputs[0].rank)]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive."""
        builder = StepBuilder(spec, weights)
        kind = spec.kind
        if not isinstance(kind, Softmax):
            raise Unprepared(f"{kind.name} is not a softmax")
        source = builder.input(0)
        algorithm = Algorithm.logsoftmax if kind.is_log else Algorithm.softmax

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            return onednn.softmax(
                source.desc, dst, kind.axis, algorithm=algorithm, attributes=attributes
            )

        add_fused(builder, Fusion(make, lambda desc: {Arg.src: source}, can_sum=False))
        return builder.finish()
