"""What follows a product is computed on its rows, before they become an image."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, replace_layer
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class PointwiseBeforeTranspose(Fusion[_Match]):
    """Compute where the channels are last, so that the product may do it.

    Before: %m = matmul(%x, @w) [b,h,w,c]   %t = transpose(%m) {"permutation": [0,3,1,2]}
            %y = pointwise(%t, @scale[c,1,1], %r[b,c,h,w]) add(mul(i0,i1),i2)
    After:  %s = transpose(%r) {"permutation": [0,2,3,1]}
            %p = pointwise(%m, @scale[c], %s)   %y = transpose(%p) {"permutation": [0,3,1,2]}
    Fires on a GPU, where images lie with their channels last and these transposes move nothing:
    when %m comes from a layer that takes an epilogue, and the other operands are constants or
    like %y.
    Refuses when the transpose or %m has other readers.
    """

    name: ClassVar[str] = "pointwise_before_transpose"
    equation: ClassVar[str] = "f(transpose(m), r) = transpose(f(m, transpose(r)))"
    priority: ClassVar[int] = 33

    def __init__(self, is_enabled: bool = True) -> None:
        self.is_enabled = is_enabled

    @classmethod
    def for_target(cls, target: str) -> Self:
        """On a GPU alone: a CPU's images lie in blocks of channels."""
        return cls(target == "cuda")

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A pointwise layer on rows that became an image."""
        if not self.is_enabled or not isinstance(layer.kind, Pointwise) or layer.output.rank < 4:
            return None
        for tensor in layer.inputs:
            producer = tensor.producer
            if producer is None or not _makes_image(producer):
                continue
            source = producer.inputs[0].producer
            if source is None or not source.kind.takes_epilogue:
                continue
            others = [t for t in layer.inputs if t is not tensor and not t.is_constant]
            if all(t.shape == layer.output.shape for t in (tensor, *others)):
                return producer, layer
        return None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """One reader each."""
        transpose, layer = match
        if network.only_user(transpose.output) is not layer:
            return Reject(f"{transpose.output.name} has other readers", transpose.name)
        if network.only_user(transpose.inputs[0]) is not transpose:
            return Reject(f"{transpose.inputs[0].name} has other readers", transpose.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Operands with their channels last, the pointwise layer, the transpose."""
        transpose, layer = match
        operands = {
            tensor: transpose.inputs[0] if tensor is transpose.output
            else _channels_last(network, tensor, layer)
            for tensor in dict.fromkeys(layer.inputs)
        }
        computed = network.add(
            layer.kind, [operands[tensor] for tensor in layer.inputs], before=layer,
            name=f"{layer.name}.rows", origins=merged_origins(layer),
        )
        return replace_layer(
            network, layer, transpose.kind, (computed.output,), absorbed=[transpose]
        )


def _makes_image(layer: Layer) -> bool:
    """Whether a layer moves the last axis behind the first."""
    rank = layer.output.rank
    return layer.kind == Transpose((0, rank - 1, *range(1, rank - 1)))


def _channels_last(network: Network, tensor: Tensor, layer: Layer) -> Tensor:
    """An operand with its second axis last."""
    rank = layer.output.rank
    permutation = (0, *range(2, rank), 1)
    if tensor.data is None:
        return network.add(
            Transpose(permutation), (tensor,), before=layer, name=f"{layer.name}.pixels",
            origins=layer.origins,
        ).output
    data = tensor.data
    whole = data.reshape((1,) * (rank - data.ndim) + data.shape).transpose(permutation)
    while whole.ndim > 1 and whole.shape[0] == 1:
        whole = whole[0]
    return network.add_constant(tensor.name, np.ascontiguousarray(whole), tensor.dtype)
