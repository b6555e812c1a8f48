"""A reshape of a reshape is one reshape."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.reshape import Reshape
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


class MergeReshapes(Fusion[tuple[Layer, Layer]]):
    """The second reshape reads the first one's input.

    Before: %a = reshape(%x[2,3,4]) {"shape": [6,4]}   %y = reshape(%a) {"shape": [24]}
    After:  %y = reshape(%x[2,3,4]) {"shape": [24]}
    Fires whoever else reads %a: a reshape moves nothing.
    Refuses when symbolic sizes would resolve differently.
    """

    name: ClassVar[str] = "merge_reshapes"
    equation: ClassVar[str] = "reshape(reshape(x, a), b) = reshape(x, b)"
    priority: ClassVar[int] = 12

    def match(self, network: Network, layer: Layer) -> tuple[Layer, Layer] | None:
        """Two reshapes in a row."""
        if not isinstance(layer.kind, Reshape):
            return None
        first = layer.inputs[0].producer
        return (first, layer) if first is not None and isinstance(first.kind, Reshape) else None

    def check(self, network: Network, match: tuple[Layer, Layer]) -> Reject | None:
        """The type stays."""
        first, second = match
        if second.kind.infer([first.inputs[0].type]) != (second.output.type,):
            return Reject("symbolic sizes would resolve differently", first.name)
        return None

    def rewrite(self, network: Network, match: tuple[Layer, Layer]) -> Layer:
        """Reshape the first one's input."""
        first, second = match
        return replace_layer(network, second, second.kind, first.inputs, absorbed=(first,))
