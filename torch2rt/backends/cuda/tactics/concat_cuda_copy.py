"""Concats by strided copies: one launch for up to eight inputs that are alike in alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Copy, CopyMove, part_of, whole_axes
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Weights
from torch2rt.layers.concat import Concat


class ConcatCopy(CopyMove):
    """Every input is copied to its part of the output."""

    name: ClassVar[str] = "concat.cuda.copy"
    kinds: ClassVar[tuple[str, ...]] = ("concat",)

    def copies(self, spec: LayerSpec, weights: Weights) -> Sequence[Copy]:
        """One per input."""
        axis = kind_of(spec, Concat).axis
        target = spec.outputs[0]
        copies, start = [], 0
        for index, source in enumerate(spec.inputs):
            copies.append(part_of(
                spec, weights, whole_axes(target, source), source=index,
                target_start=start * target.strides[axis],
            ))
            start += source.shape[axis]
        return copies
