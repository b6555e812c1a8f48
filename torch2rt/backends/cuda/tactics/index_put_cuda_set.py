"""Writing to indexed places of a copy. Which of several writers wins is open, as in torch."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.lookups import (
    Lookup,
    broadcast_strides,
    indexed_axes,
    lookup_launches,
)
from torch2rt.backends.cuda.cpp.moves import Move, copy_launches, overwritable, part_of, whole_axes
from torch2rt.backends.cuda.launch import KernelPrepared
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.index_put import IndexPut


class IndexPutSet(Move):
    """A copy, then a vector per thread; indices out of range write nothing."""

    name: ClassVar[str] = "index_put.cuda.set"
    kinds: ClassVar[tuple[str, ...]] = ("index_put",)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """Values that add up."""
        return Refusal("values that add up") if kind_of(spec, IndexPut).accumulate else None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Two launches."""
        indexed = kind_of(spec, IndexPut).axes
        x, values, *indices = spec.inputs
        output = spec.outputs[0]
        whole = part_of(spec, weights, whole_axes(output, x))
        targets = indexed_axes(output, indexed, indices)
        strides = broadcast_strides(values, len(targets))
        axes = [
            Axis(target.size, (target.stride, origin, *target.walks))
            for target, origin in zip(targets, strides, strict=True)
        ]
        lookups = [
            Lookup(position + 2, output.strides[axis], output.shape[axis])
            for position, axis in enumerate(indexed)
        ]
        writes = lookup_launches(spec, weights, axes, lookups, source=1, is_write=True)
        return KernelPrepared(
            [*copy_launches(weights, [whole]), *writes], may_overwrite=overwritable(spec)
        )
