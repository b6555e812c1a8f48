"""Sums, means, maxima and minima over axes by oneDNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type, describe
from torch2rt.backends.cpu.epilogue import Fusion, add_fused
from torch2rt.backends.cpu.layouts import is_supported_float, spatial_layouts
from torch2rt.backends.cpu.onednn import Algorithm, Arg, Attributes, MemoryDesc, PrimitiveDesc
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.cpu.tactics.matmul_onednn import data_type_of_output
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec, canonical_layout
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.reduce import Reduce, reduced_shape

_ALGORITHMS = {
    "sum": Algorithm.reduction_sum, "mean": Algorithm.reduction_mean,
    "max": Algorithm.reduction_max, "min": Algorithm.reduction_min,
    "prod": Algorithm.reduction_mul,
}
MAX_RANK = 5


class Reduction(Tactic):
    """One reduction primitive."""

    name: ClassVar[str] = "reduce.onednn.direct"
    kinds: ClassVar[tuple[str, ...]] = ("reduce",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats; modes that oneDNN has; nothing empty."""
        if reduce_kind(spec).mode not in _ALGORITHMS:
            return Refusal(f"oneDNN has no reduction {reduce_kind(spec).mode}")
        if spec.inputs[0].rank > MAX_RANK:
            return Refusal(f"{spec.inputs[0].rank} axes")
        if spec.inputs[0].element_count == 0:
            return Refusal("a reduction over nothing")
        return is_supported_float(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Any layout in; out the same where the axes are kept, else row-major.

        Without the axes, the result must lie as if they were kept.
        """
        choices = []
        for layout in spatial_layouts(spec.inputs[0].rank):
            target = layout if reduce_kind(spec).keepdim else Layout.PLAIN
            kept = kept_spec(spec, layout)
            if target is not Layout.PLAIN or canonical_layout(kept) is Layout.PLAIN:
                rest = (Layout.PLAIN,) * (len(spec.inputs) - 1)
                choices.append(LayoutChoice((layout, *rest), (target,)))
        return choices

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive."""
        builder = StepBuilder(spec, weights)
        source = builder.input(0)
        rank = spec.inputs[0].rank
        target = self.target(spec)

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            return self.primitive(spec, source.desc, dst, attributes)

        def describe(index: int) -> MemoryDesc:
            return _describe_kept(spec, index, rank)

        add_fused(builder, Fusion(
            make, lambda desc: {Arg.src: source}, can_sum=False, describe=describe, output=target
        ))
        return builder.finish()

    def target(self, spec: LayerSpec) -> MemoryDesc:
        """The result as the primitive writes it, the reduced axes kept."""
        kept = kept_spec(spec, spec.outputs[0].layout)
        if canonical_layout(kept) is Layout.PLAIN:
            return MemoryDesc.plain(kept.shape, data_type_of_output(spec))
        return describe(spec.outputs[0])

    def primitive(
        self, spec: LayerSpec, source: MemoryDesc, dst: MemoryDesc, attributes: Attributes
    ) -> PrimitiveDesc:
        """The reduction."""
        algorithm = _ALGORITHMS[reduce_kind(spec).mode]
        return onednn.reduction(algorithm, source, dst, attributes=attributes)


def reduce_kind(spec: LayerSpec) -> Reduce:
    """The layer's kind."""
    if not isinstance(spec.kind, Reduce):
        raise Unprepared(f"{spec.kind.name} is not a reduction")
    return spec.kind


def kept_spec(spec: LayerSpec, layout: Layout) -> TensorSpec:
    """The output as it would be if the reduced axes were kept."""
    shape = reduced_shape(spec.inputs[0].shape, reduce_kind(spec).axes, keepdim=True)
    return TensorSpec(tuple(concrete(size) for size in shape), spec.outputs[0].dtype, layout)


def _describe_kept(spec: LayerSpec, index: int, rank: int) -> MemoryDesc:
    """An epilogue operand with the reduced axes put back as ones."""
    operand = spec.inputs[index]
    element = data_type(operand.dtype)
    if element is None:
        raise Unprepared(f"oneDNN has no {operand.dtype.value}")
    kind = reduce_kind(spec)
    sizes = list(operand.shape)
    if kind.keepdim:
        return MemoryDesc.plain((1,) * (rank - len(sizes)) + tuple(sizes), element)
    output_rank = rank - len(kind.axes)
    aligned = [1] * (output_rank - len(sizes)) + sizes
    for axis in kind.axes:
        aligned.insert(axis, 1)
    return MemoryDesc.plain(tuple(aligned), element)
