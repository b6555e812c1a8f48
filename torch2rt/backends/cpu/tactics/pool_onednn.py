"""Max and mean pooling by oneDNN, in every layout."""

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
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.layers.pool import Pool


class Pooling(Tactic):
    """One pooling primitive."""

    name: ClassVar[str] = "pool.onednn.direct"
    kinds: ClassVar[tuple[str, ...]] = ("pool",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, and maxima of bytes; padding smaller than the window."""
        kind = _kind(spec)
        reach = [(k - 1) * d + 1 for k, d in zip(kind.kernel, kind.dilation, strict=True)]
        for paddings in (kind.padding_before, kind.padding_after):
            if any(p >= k for p, k in zip(paddings, reach, strict=True)):
                return Refusal("a window lies in the padding alone")
        dtypes = {tensor.dtype for tensor in (*spec.inputs, *spec.outputs)}
        if kind.mode == "max" and spec.epilogue is None and dtypes <= set(EIGHT_BITS):
            return None
        return is_supported_float(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """The same layout on both sides."""
        return [choice(spec, (layout,), layout) for layout in spatial_layouts(spec.inputs[0].rank)]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive."""
        builder = StepBuilder(spec, weights)
        kind = _kind(spec)
        source = builder.input(0)
        algorithm = Algorithm.pooling_max
        if kind.mode == "mean":
            algorithm = (
                Algorithm.pooling_avg_include_padding if kind.count_padding
                else Algorithm.pooling_avg_exclude_padding
            )

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            return onednn.pooling(
                algorithm, source.desc, dst, kernel=kind.kernel, strides=kind.stride,
                padding_l=kind.padding_before, padding_r=kind.padding_after,
                dilations=kind.dilation, attributes=attributes,
            )

        add_fused(builder, Fusion(make, lambda desc: {Arg.src: source}, can_sum=False))
        return builder.finish()


def _kind(spec: LayerSpec) -> Pool:
    if not isinstance(spec.kind, Pool):
        raise Unprepared(f"{spec.kind.name} is not a pooling")
    return spec.kind


