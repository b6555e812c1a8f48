"""Writing elements along an axis of a copy. Which of several writers wins is open, as in torch."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.lookups import Lookup, lookup_launches
from torch2rt.backends.cuda.cpp.moves import Move, copy_launches, overwritable, part_of, whole_axes
from torch2rt.backends.cuda.launch import KernelPrepared
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.scatter import Scatter


class ScatterSet(Move):
    """A copy, then an element per thread; indices out of range write nothing."""

    name: ClassVar[str] = "scatter.cuda.set"
    kinds: ClassVar[tuple[str, ...]] = ("scatter",)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """Elements that combine."""
        mode = kind_of(spec, Scatter).mode
        return Refusal(f"elements that combine by {mode}") if mode != "set" else None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Two launches."""
        axis = kind_of(spec, Scatter).axis
        x, index, source = spec.inputs
        output = spec.outputs[0]
        whole = part_of(spec, weights, whole_axes(output, x))
        axes = [
            Axis(index.shape[i], (
                0 if i == axis else output.strides[i], source.strides[i], index.strides[i]
            ))
            for i in range(index.rank)
        ]
        lookup = Lookup(1, output.strides[axis], output.shape[axis])
        writes = lookup_launches(spec, weights, axes, [lookup], source=2, is_write=True)
        return KernelPrepared(
            [*copy_launches(weights, [whole]), *writes], may_overwrite=overwritable(spec)
        )
