"""Pointwise layers broadcast by themselves."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused
from torch2rt.layers.expand import Expand
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class ExpandIntoPointwise(Fusion[_Match]):
    """A pointwise layer reads the tensor before it was expanded.

    Before: %e = expand(%m[1,1,8]) {"shape": [4,1,8]}   %y = pointwise(%x[4,6,8], %e)
    After:  %y = pointwise(%x[4,6,8], %m[1,1,8])
    Fires whoever else reads %e.
    Refuses when the other operands do not give the result's shape.
    """

    name: ClassVar[str] = "expand_into_pointwise"
    equation: ClassVar[str] = "f(x, expand(m)) = f(x, m)"
    priority: ClassVar[int] = 32

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A pointwise layer with an expanded operand."""
        if not isinstance(layer.kind, Pointwise):
            return None
        found = [
            tensor.producer for tensor in layer.inputs
            if tensor.producer is not None and isinstance(tensor.producer.kind, Expand)
        ]
        possible = [p for p in found if self.check(network, (p, layer)) is None]
        return ((possible or found)[0], layer) if found else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """The shape stays."""
        expand, layer = match
        inputs = [expand.inputs[0] if t is expand.output else t for t in layer.inputs]
        if layer.kind.infer([t.type for t in inputs])[0].shape != layer.output.shape:
            return Reject(f"{expand.name} gives the result its shape", expand.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Read the tensor before it is expanded."""
        expand, layer = match
        network.set_origins(layer, merged_origins(expand, layer))
        inputs = (expand.inputs[0] if t is expand.output else t for t in layer.inputs)
        network.set_inputs(layer, tuple(inputs))
        remove_if_unused(network, expand)
        return layer
