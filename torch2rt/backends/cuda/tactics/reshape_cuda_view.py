"""Reshapes that move nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import layout_pairs
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.backends.views import ViewsPrepared, is_reshape_view, keeps_runs, whole_view


class ReshapeView(Tactic):
    """The output is the input's memory: always in row-major order, sometimes in other layouts."""

    name: ClassVar[str] = "reshape.cuda.view"
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
            choice for choice in layout_pairs(spec)
            if is_reshape_view(
                source.with_layout(choice.inputs[0]), target.with_layout(choice.outputs[0])
            )
        ]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Where the input's runs are whole axes of the output too."""
        return keeps_runs(spec.inputs[0], spec.outputs[0])

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view."""
        return ViewsPrepared((whole_view(spec.inputs[0]),))
