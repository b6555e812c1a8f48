"""Advanced indexing. Indices out of range give NaN, or 0 for integers."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.lookups import Lookup, indexed_axes, lookup_launches
from torch2rt.backends.cuda.cpp.moves import Move
from torch2rt.backends.cuda.launch import KernelPrepared
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.index import Index


class IndexElements(Move):
    """A vector per thread where the innermost axis is not indexed."""

    name: ClassVar[str] = "index.cuda.elements"
    kinds: ClassVar[tuple[str, ...]] = ("index",)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        indexed = kind_of(spec, Index).axes
        x, *indices = spec.inputs
        axes = [
            Axis(axis.size, (to, axis.stride, *axis.walks))
            for axis, to in zip(
                indexed_axes(x, indexed, indices), spec.outputs[0].strides, strict=True
            )
        ]
        lookups = [
            Lookup(position + 1, x.strides[axis], x.shape[axis])
            for position, axis in enumerate(indexed)
        ]
        return KernelPrepared(lookup_launches(spec, weights, axes, lookups))
