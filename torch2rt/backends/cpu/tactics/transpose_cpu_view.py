"""Transposes that move nothing: the two layouts keep the bytes in one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.tactics.transpose_numpy import permutation_of
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.backends.views import WHOLE, ViewsPrepared, is_transpose_view


class TransposeView(Tactic):
    """[n,c,h,w] channels last is [n,h,w,c] row-major; axes of length 1 may go anywhere."""

    name: ClassVar[str] = "transpose.cpu.view"
    kinds: ClassVar[tuple[str, ...]] = ("transpose",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """A transpose for which some pair of layouts works."""
        if spec.epilogue is not None or spec.constants[0] is not None:
            return Refusal("there is something to compute or no memory to view")
        return None if self.layouts(spec) else Refusal("the bytes change their order")

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Pairs of layouts with the same order of bytes."""
        choices = [
            LayoutChoice((first,), (second,))
            for first in spatial_layouts(spec.inputs[0].rank)
            for second in spatial_layouts(spec.outputs[0].rank)
        ]
        return [choice for choice in choices if _keeps_order(spec.with_layouts(choice))]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view."""
        return ViewsPrepared(WHOLE)


def _keeps_order(spec: LayerSpec) -> bool:
    return is_transpose_view(spec.inputs[0], spec.outputs[0], permutation_of(spec))
