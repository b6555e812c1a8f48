"""Casts between floats by oneDNN's reorder, which changes the layout in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.tactics.reformat_onednn import Reorder
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.pointwise import Pointwise


class CastReorder(Reorder):
    """A pointwise layer that is nothing but a cast, as one reorder from any layout to any."""

    name: ClassVar[str] = "pointwise.onednn.cast"
    kinds: ClassVar[tuple[str, ...]] = ("pointwise",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """A single float operand of the result's shape, and no other operation."""
        kind = spec.kind
        if not isinstance(kind, Pointwise) or len(spec.inputs) != 1 or spec.epilogue is not None:
            return Refusal("not a cast of one operand")
        if kind.expression not in (ex.Input(0), ex.cast(spec.outputs[0].dtype, ex.Input(0))):
            return Refusal(f"{kind.expression.text} is more than a cast")
        if not (spec.inputs[0].dtype.is_float and spec.outputs[0].dtype.is_float):
            return Refusal("a cast from or to an integer type")
        return super().supports(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Every pair of layouts."""
        found = spatial_layouts(spec.outputs[0].rank)
        return [LayoutChoice((source,), (target,)) for source in found for target in found]
