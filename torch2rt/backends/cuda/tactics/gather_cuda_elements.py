"""Elements along an axis by index. Indices out of range give NaN, or 0 for integers."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.lookups import Lookup, lookup_launches
from torch2rt.backends.cuda.cpp.moves import Move
from torch2rt.backends.cuda.launch import KernelPrepared
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.gather import Gather


class GatherElements(Move):
    """An element per thread."""

    name: ClassVar[str] = "gather.cuda.elements"
    kinds: ClassVar[tuple[str, ...]] = ("gather",)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        axis = kind_of(spec, Gather).axis
        (x, index), output = spec.inputs, spec.outputs[0]
        axes = [
            Axis(output.shape[i], (
                output.strides[i], 0 if i == axis else x.strides[i], index.strides[i]
            ))
            for i in range(output.rank)
        ]
        lookup = Lookup(1, x.strides[axis], x.shape[axis])
        return KernelPrepared(lookup_launches(spec, weights, axes, [lookup]))
