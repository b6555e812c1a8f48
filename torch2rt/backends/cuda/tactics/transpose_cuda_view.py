"""Transposes that move nothing: the two layouts keep the bytes in one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import layout_pairs
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.backends.views import ViewsPrepared, is_transpose_view, keeps_runs, whole_view
from torch2rt.layers.transpose import Transpose


class TransposeView(Tactic):
    """[n,c,h,w] channels last is [n,h,w,c] row-major; axes of length 1 may go anywhere."""

    name: ClassVar[str] = "transpose.cuda.view"
    kinds: ClassVar[tuple[str, ...]] = ("transpose",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """A transpose for which some pair of layouts works."""
        if spec.epilogue is not None or spec.constants[0] is not None:
            return Refusal("there is something to compute or no memory to view")
        return None if self.layouts(spec) else Refusal("the bytes change their order")

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Pairs of layouts with the same order of bytes."""
        permutation = kind_of(spec, Transpose).permutation
        source, target = spec.inputs[0], spec.outputs[0]
        return [
            choice for choice in layout_pairs(spec)
            if is_transpose_view(
                source.with_layout(choice.inputs[0]), target.with_layout(choice.outputs[0]),
                permutation,
            )
        ]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Where the input's runs are whole axes of the output too."""
        return keeps_runs(spec.inputs[0], spec.outputs[0])

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view."""
        return ViewsPrepared((whole_view(spec.inputs[0]),))
