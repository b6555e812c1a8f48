"""Scatter with a reduction: sums, products, extremes and means along an axis."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.combines import (
    EntryAxis,
    LineAxis,
    combine_prepared,
    combine_refusal,
)
from torch2rt.backends.cuda.cpp.moves import Move
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.layers.scatter import Scatter


class ScatterCombine(Move):
    """Every line along the axis by itself, its entries in order."""

    name: ClassVar[str] = "scatter.cuda.combine"
    kinds: ClassVar[tuple[str, ...]] = ("scatter",)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """Elements that replace, and what does not combine."""
        kind = kind_of(spec, Scatter)
        if kind.mode == "set":
            return Refusal("elements that replace")
        return combine_refusal(spec, spec.inputs[1].shape[kind.axis])

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        kind = kind_of(spec, Scatter)
        x, index, source = spec.inputs
        output, axis = spec.outputs[0], kind.axis
        lines = [
            LineAxis(x.shape[i], index.shape[i], x.strides[i], output.strides[i],
                     source.strides[i], (index.strides[i],))
            for i in range(x.rank) if i != axis
        ]
        entries = [EntryAxis(index.shape[axis], source.strides[axis], (index.strides[axis],))]
        return combine_prepared(
            spec, weights, kind.mode, kind.include_self, values=2, indices=[1], axes=[axis],
            lines=lines, entries=entries,
        )
