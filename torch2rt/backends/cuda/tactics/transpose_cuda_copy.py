"""Transposes by a strided copy, through tiles in shared memory where the innermost axis moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Copy, CopyMove, layout_pairs, part_of
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.transpose import Transpose


class TransposeCopy(CopyMove):
    """Any permutation, from and to any layout."""

    name: ClassVar[str] = "transpose.cuda.copy"
    kinds: ClassVar[tuple[str, ...]] = ("transpose",)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """All pairs."""
        return layout_pairs(spec)

    def copies(self, spec: LayerSpec, weights: Weights) -> Sequence[Copy]:
        """One."""
        source = spec.inputs[0].strides
        axes = [
            Axis(size, (to, source[axis]))
            for size, to, axis in zip(
                spec.outputs[0].shape, spec.outputs[0].strides,
                kind_of(spec, Transpose).permutation, strict=True,
            )
        ]
        return [part_of(spec, weights, axes)]
