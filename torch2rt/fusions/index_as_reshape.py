"""Indexing every element in order moves nothing."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.arange import Arange
from torch2rt.layers.index import Index
from torch2rt.layers.reshape import Reshape
from torch2rt.network.dim import Dim
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject


class IndexAsReshape(Fusion[Layer]):
    """An index by 0, 1, 2, ... along each of its axes is a reshape.

    Before: %i = reshape(arange(s0)) -> int64[s0,1,1,1]   @j: int64[1,1,1,8] = 0..7
            %y = index(%x[s0,8], %i, @j) {"axes": [0,1]} -> bool[s0,1,1,8]
    After:  %y = reshape(%x) {"shape": [s0,1,1,8]}
    Fires when the indexed axes are neighbours and the index of each counts all of it, along an
    axis of its own, in order.
    """

    name: ClassVar[str] = "index_as_reshape"
    equation: ClassVar[str] = "x[range(n), range(m)] = reshape(x)"
    priority: ClassVar[int] = 12

    def match(self, network: Network, layer: Layer) -> Layer | None:
        """An index of neighbouring axes by one index tensor each, all of them in order."""
        if not isinstance(layer.kind, Index) or layer.epilogue is not None:
            return None
        axes = layer.kind.axes
        if axes[-1] - axes[0] + 1 != len(axes):
            return None
        x, *indices = layer.inputs
        rank = max(index.rank for index in indices)
        position = -1
        for axis, index in zip(axes, indices, strict=True):
            if not _counts(index, x.shape[axis]):
                return None
            if x.shape[axis] == 1:
                continue
            found = rank - index.rank + _long_axis(index)
            if found <= position:
                return None
            position = found
        return layer

    def check(self, network: Network, match: Layer) -> Reject | None:
        """Nothing to refuse."""
        return None

    def rewrite(self, network: Network, match: Layer) -> Layer:
        """Reshape instead."""
        aranges = [index.producer for index in match.inputs[1:] if index.producer is not None]
        sources = [layer.inputs[0].producer for layer in aranges if layer.inputs]
        absorbed = [*aranges, *(layer for layer in sources if layer is not None)]
        kind = Reshape(match.output.shape)
        return replace_layer(network, match, kind, match.inputs[:1], absorbed=absorbed)


def _long_axis(index: Tensor) -> int:
    """The axis whose size is not 1; there is one."""
    return next(axis for axis, size in enumerate(index.shape) if size != 1)


def _counts(index: Tensor, size: Dim) -> bool:
    """Whether a tensor is 0, 1, ... ``size`` - 1, along one axis."""
    if [dim for dim in index.shape if dim != 1] != [dim for dim in (size,) if dim != 1]:
        return False
    if index.data is not None:
        return bool(np.array_equal(index.data.reshape(-1), np.arange(index.data.size)))
    producer = index.producer
    while producer is not None and isinstance(producer.kind, Reshape):
        producer = producer.inputs[0].producer
    if producer is None or not isinstance(producer.kind, Arange):
        return False
    kind = producer.kind
    return kind.start == 0 and kind.step == 1 and kind.count == size
