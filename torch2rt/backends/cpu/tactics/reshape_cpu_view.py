"""Reshapes that move nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.backends.views import WHOLE, ViewsPrepared, is_reshape_view


class ReshapeView(Tactic):
    """The output is the input's memory: always in row-major order, sometimes in other layouts."""

    name: ClassVar[str] = "reshape.cpu.view"
    kinds: ClassVar[tuple[str, ...]] = ("reshape",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every reshape."""
        if spec.constants[0] is not None:
            return Refusal("a constant has no memory of its own to view")
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Pairs of layouts whose bytes are in the same order."""
        source, target = spec.inputs[0], spec.outputs[0]
        return [
            LayoutChoice((first,), (second,))
            for first in spatial_layouts(source.rank) for second in spatial_layouts(target.rank)
            if is_reshape_view(source.with_layout(first), target.with_layout(second))
        ]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view."""
        return ViewsPrepared(WHOLE)
