"""Adding to indexed places of a copy."""

from __future__ import annotations

import math
from typing import ClassVar

from torch2rt.backends.cuda.cpp.combines import (
    EntryAxis,
    LineAxis,
    combine_prepared,
    combine_refusal,
)
from torch2rt.backends.cuda.cpp.lookups import broadcast_strides, indexed_axes
from torch2rt.backends.cuda.cpp.moves import Move
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.layers.index_put import IndexPut


class IndexPutAdd(Move):
    """Every position of the axes that are not indexed by itself, its entries in order."""

    name: ClassVar[str] = "index_put.cuda.add"
    kinds: ClassVar[tuple[str, ...]] = ("index_put",)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """Values that replace, and what does not add up."""
        if not kind_of(spec, IndexPut).accumulate:
            return Refusal("values that replace")
        targets = indexed_axes(spec.inputs[0], kind_of(spec, IndexPut).axes, spec.inputs[2:])
        return combine_refusal(spec, math.prod(a.size for a in targets if a.is_indexed))

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        indexed = kind_of(spec, IndexPut).axes
        x, values, *indices = spec.inputs
        output = spec.outputs[0]
        targets = indexed_axes(x, indexed, indices)
        kept = [axis for axis in range(x.rank) if axis not in indexed]
        lines: list[LineAxis] = []
        entries: list[EntryAxis] = []
        none = (0,) * len(indices)
        for target, stride in zip(targets, broadcast_strides(values, len(targets)), strict=True):
            if target.is_indexed:
                entries.append(EntryAxis(target.size, stride, target.walks))
                continue
            axis = kept[len(lines)]
            size = x.shape[axis]
            lines.append(
                LineAxis(size, size, x.strides[axis], output.strides[axis], stride, none)
            )
        return combine_prepared(
            spec, weights, "sum", True, values=1, indices=range(2, len(spec.inputs)),
            axes=indexed, lines=lines, entries=entries,
        )
