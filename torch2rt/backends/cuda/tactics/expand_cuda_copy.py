"""Repeats along axes by a strided copy whose source stands still along them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Copy, CopyMove, part_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Weights
from torch2rt.kernels.cuda.strided import Axis


class ExpandCopy(CopyMove):
    """The source's stride is 0 along axes that it has not or has once."""

    name: ClassVar[str] = "expand.cuda.copy"
    kinds: ClassVar[tuple[str, ...]] = ("expand",)

    def copies(self, spec: LayerSpec, weights: Weights) -> Sequence[Copy]:
        """One."""
        source, target = spec.inputs[0], spec.outputs[0]
        front = target.rank - source.rank
        strides = [0] * front + [
            0 if size == 1 else stride
            for size, stride in zip(source.shape, source.strides, strict=True)
        ]
        axes = [
            Axis(size, (to, origin))
            for size, to, origin in zip(target.shape, target.strides, strides, strict=True)
        ]
        return [part_of(spec, weights, axes)]
