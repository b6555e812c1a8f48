"""Slices of an axis by index: embeddings. Indices out of range give NaN, or 0 for integers."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.lookups import Lookup, lookup_launches
from torch2rt.backends.cuda.cpp.moves import Move
from torch2rt.backends.cuda.launch import KernelPrepared
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.take import Take


class TakeRows(Move):
    """A vector of a row per thread."""

    name: ClassVar[str] = "take.cuda.rows"
    kinds: ClassVar[tuple[str, ...]] = ("take",)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        axis = kind_of(spec, Take).axis
        x, index = spec.inputs
        pairs = [(stride, 0) for stride in x.strides[:axis]]
        pairs += [(0, stride) for stride in index.strides]
        pairs += [(stride, 0) for stride in x.strides[axis + 1 :]]
        axes = [
            Axis(size, (to, origin, walk))
            for size, to, (origin, walk) in zip(
                spec.outputs[0].shape, spec.outputs[0].strides, pairs, strict=True
            )
        ]
        lookup = Lookup(1, x.strides[axis], x.shape[axis])
        return KernelPrepared(lookup_launches(spec, weights, axes, [lookup]))
