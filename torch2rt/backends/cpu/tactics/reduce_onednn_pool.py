"""Means over all spatial axes by oneDNN's average pooling, whose window is the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import describe
from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.onednn import Algorithm, Attributes, MemoryDesc, PrimitiveDesc
from torch2rt.backends.cpu.tactics.reduce_onednn import Reduction, kept_spec, reduce_kind
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, canonical_layout
from torch2rt.backends.tactic import Refusal


class GlobalAveragePooling(Reduction):
    """One pooling primitive."""

    name: ClassVar[str] = "reduce.onednn.pool"

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """A mean over every axis but batch and channels, which are kept or come first."""
        kind, rank = reduce_kind(spec), spec.inputs[0].rank
        if kind.mode != "mean" or kind.axes != tuple(range(2, rank)) or rank not in (3, 4, 5):
            return Refusal("not a mean over all spatial axes")
        return super().supports(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Any layout in; out row-major, if one value per channel lies alike in both."""
        rest = (Layout.PLAIN,) * (len(spec.inputs) - 1)
        return [
            LayoutChoice((layout, *rest), (Layout.PLAIN,))
            for layout in spatial_layouts(spec.inputs[0].rank)
            if canonical_layout(kept_spec(spec, layout)) is Layout.PLAIN
        ]

    def target(self, spec: LayerSpec) -> MemoryDesc:
        """The same bytes in the layout of the source, which the primitive wants."""
        return describe(kept_spec(spec, spec.inputs[0].layout))

    def primitive(
        self, spec: LayerSpec, source: MemoryDesc, dst: MemoryDesc, attributes: Attributes
    ) -> PrimitiveDesc:
        """The pooling."""
        window = source.dims[2:]
        nothing = (0,) * len(window)
        return onednn.pooling(
            Algorithm.pooling_avg_exclude_padding, source, dst, kernel=window,
            strides=window, padding_l=nothing, padding_r=nothing, attributes=attributes,
        )
