"""What follows a concat is computed before it, where one part of the concat is constant."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, replace_layer
from torch2rt.layers.concat import Concat
from torch2rt.layers.expand import Expand
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class PointwiseIntoConcat(Fusion[_Match]):
    """Compute on the parts of a concat, the constant one at conversion.

    Before: %e = expand(@token[1,1,8])   %c = concat(%e, %x[s0,4,8]) {"axis": 1}
            %y = pointwise(%c, @position[1,5,8]) add(i0,i1)
    After:  %a = pointwise(%e, @first[1,1,8])   %b = pointwise(%x, @others[1,4,8])
            %y = concat(%a, %b)
    Fires on a GPU, where %b writes into %y: when the other operands are constants, and a part is
    a constant or an expanded one. So an image transformer begins.
    Refuses when the concat has other readers, or its parts have no fixed sizes.
    """

    name: ClassVar[str] = "pointwise_into_concat"
    equation: ClassVar[str] = "f(cat(x, y), cat(a, b)) = cat(f(x, a), f(y, b))"
    priority: ClassVar[int] = 34

    def __init__(self, is_enabled: bool = True) -> None:
        self.is_enabled = is_enabled

    @classmethod
    def for_target(cls, target: str) -> Self:
        """On a GPU alone: elsewhere a concat is a copy of all its parts."""
        return cls(target == "cuda")

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A pointwise layer on a concat and on constants."""
        if not self.is_enabled or not isinstance(layer.kind, Pointwise):
            return None
        varying = [tensor for tensor in layer.inputs if not tensor.is_constant]
        producer = varying[0].producer if len(varying) == 1 else None
        if producer is None or not isinstance(producer.kind, Concat):
            return None
        if producer.output.shape != layer.output.shape:
            return None
        return (producer, layer) if any(map(_is_constant, producer.inputs)) else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """One reader, and parts of fixed sizes."""
        concat, layer = match
        assert isinstance(concat.kind, Concat)
        if network.only_user(concat.output) is not layer:
            return Reject(f"{concat.output.name} has other readers", concat.name)
        axis = concat.kind.axis
        if not all(isinstance(part.shape[axis], int) for part in concat.inputs):
            return Reject("a part has no fixed size", concat.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """A pointwise layer per part, then the concat."""
        concat, layer = match
        assert isinstance(concat.kind, Concat)
        parts = []
        start = 0
        for index, part in enumerate(concat.inputs):
            size = int(part.shape[concat.kind.axis])
            inputs = [
                part if tensor is concat.output
                else _piece(network, tensor, layer, concat.kind.axis, start, size)
                for tensor in layer.inputs
            ]
            computed = network.add(
                layer.kind, inputs, before=layer, name=f"{layer.name}.part{index}",
                origins=merged_origins(layer),
            )
            parts.append(computed.output)
            start += size
        return replace_layer(network, layer, concat.kind, parts, absorbed=[concat])


def _is_constant(tensor: Tensor) -> bool:
    producer = tensor.producer
    if producer is not None and isinstance(producer.kind, Expand):
        return producer.inputs[0].is_constant
    return tensor.is_constant


def _piece(
    network: Network, constant: Tensor, layer: Layer, axis: int, start: int, size: int
) -> Tensor:
    """What of a constant meets one part."""
    data = constant.data
    assert data is not None
    own = axis - (layer.output.rank - data.ndim)
    if own < 0 or data.shape[own] == 1:
        return constant
    piece = np.ascontiguousarray(np.take(data, range(start, start + size), own))
    return network.add_constant(constant.name, piece, constant.dtype)
