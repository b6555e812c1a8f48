"""Slices by a strided copy; steps may be negative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Copy, CopyMove, part_of
from torch2rt.backends.kinds import concrete, kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal, Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.slice import Slice


class SliceCopy(CopyMove):
    """The input's strides times the steps, from the start."""

    name: ClassVar[str] = "slice.cuda.copy"
    kinds: ClassVar[tuple[str, ...]] = ("slice",)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """Not of constants: such a slice is a constant itself."""
        return Refusal("a slice of a constant") if spec.constants[0] is not None else None

    def copies(self, spec: LayerSpec, weights: Weights) -> Sequence[Copy]:
        """One."""
        kind = kind_of(spec, Slice)
        source, target = spec.inputs[0].strides, spec.outputs[0].strides
        axes = [
            Axis(size, (to, origin * step))
            for size, to, origin, step in zip(
                spec.outputs[0].shape, target, source, kind.steps, strict=True
            )
        ]
        start = sum(
            concrete(first) * stride for first, stride in zip(kind.starts, source, strict=True)
        )
        return [part_of(spec, weights, axes, source_start=start)]
