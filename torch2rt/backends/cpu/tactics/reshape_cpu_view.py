"""Reshapes that move nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.descriptors import lies_as_plain
from torch2rt.backends.cpu.layouts import spatial_layouts
from torch2rt.backends.cpu.views import WHOLE, ViewsPrepared
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


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
            if _is_view(source.with_layout(first), target.with_layout(second))
        ]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view."""
        return ViewsPrepared(WHOLE)


def _is_view(source: TensorSpec, target: TensorSpec) -> bool:
    if lies_as_plain(source) and lies_as_plain(target):
        return True
    # In other layouts: batch and channels stay, the space keeps its order of axes but for ones.
    is_same = source.layout is target.layout and source.shape[:2] == target.shape[:2]
    if not is_same or source.layout is Layout.PLAIN:
        return False
    return _without_ones(source.shape[2:]) == _without_ones(target.shape[2:])


def _without_ones(sizes: Sequence[int]) -> list[int]:
    return [size for size in sizes if size != 1]
