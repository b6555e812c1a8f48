"""A concat of concats is one concat."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.concat import Concat
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class FlattenConcat(Fusion[_Match]):
    """Read the parts of a concat that nothing else reads.

    Before: %a = concat(%x, %y) {"axis": 1}   %b = concat(%a, %z) {"axis": 1}
    After:  %b = concat(%x, %y, %z) {"axis": 1}
    Fires when both join along one axis in one dtype.
    Refuses when %a has other readers: it exists anyway, and writing %z behind it moves less.
    """

    name: ClassVar[str] = "flatten_concat"
    equation: ClassVar[str] = "cat(cat(x, y), z) = cat(x, y, z)"
    priority: ClassVar[int] = 34

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A concat of a concat along the same axis."""
        if not isinstance(layer.kind, Concat):
            return None
        found = [
            tensor.producer for tensor in layer.inputs
            if tensor.producer is not None and tensor.producer.kind == layer.kind
            and tensor.dtype == layer.output.dtype
        ]
        possible = [p for p in found if self.check(network, (p, layer)) is None]
        return ((possible or found)[0], layer) if found else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """Nothing else reads the inner one."""
        inner, outer = match
        if network.only_user(inner.output) is not outer or outer.inputs.count(inner.output) > 1:
            return Reject(f"{inner.output.name} has other readers", inner.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Put the parts in its place."""
        inner, outer = match
        parts: list[Tensor] = []
        for tensor in outer.inputs:
            parts += inner.inputs if tensor is inner.output else (tensor,)
        return replace_layer(network, outer, outer.kind, parts, absorbed=(inner,))
