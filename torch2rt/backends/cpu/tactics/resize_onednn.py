"""Resizing by oneDNN's resampling, where its formula is torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.epilogue import Fusion, add_fused, choice
from torch2rt.backends.cpu.layouts import is_supported_float, spatial_layouts
from torch2rt.backends.cpu.onednn import Algorithm, Arg, Attributes, MemoryDesc, PrimitiveDesc
from torch2rt.backends.cpu.steps import StepBuilder
from torch2rt.backends.cpu.tactics.resize_numpy import resize_kind
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class Resampling(Tactic):
    """One resampling primitive."""

    name: ClassVar[str] = "resize.onednn.direct"
    kinds: ClassVar[tuple[str, ...]] = ("resize",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Linear at pixel centres; nearest to whole multiples, where rounding cannot differ."""
        kind = resize_kind(spec)
        sizes = list(zip(spec.inputs[0].shape[2:], spec.outputs[0].shape[2:], strict=True))
        if kind.mode not in ("nearest", "nearest_exact", "linear") or kind.align_corners:
            return Refusal(f"oneDNN has no {kind.mode} resize with these corners")
        if kind.mode != "linear" and any(after % before for before, after in sizes):
            return Refusal("nearest to a size that is no multiple")
        for scale, (before, after) in zip(kind.scales, sizes, strict=True):
            if scale is not None and abs(scale * before - after) > 1e-6 * after:
                return Refusal(f"a scale of {scale} from {before} to {after}")
        return is_supported_float(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """The same layout on both sides."""
        return [choice(spec, (layout,), layout) for layout in spatial_layouts(spec.inputs[0].rank)]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive."""
        builder = StepBuilder(spec, weights)
        source = builder.input(0)
        is_linear = resize_kind(spec).mode == "linear"
        algorithm = Algorithm.resampling_linear if is_linear else Algorithm.resampling_nearest

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            return onednn.resampling(algorithm, source.desc, dst, attributes=attributes)

        add_fused(builder, Fusion(make, lambda desc: {Arg.src: source}, can_sum=False))
        return builder.finish()
