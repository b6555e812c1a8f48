"""A transpose that only moves axes of size 1 is a reshape."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.reshape import Reshape, reshape_target
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


class TransposeAsReshape(Fusion[Layer]):
    """Write a transpose that moves no element as a reshape.

    Before: %y = transpose(%x[8,1,1,16]) {"permutation": [0,3,1,2]}
    After:  %y = reshape(%x) {"shape": [8,16,1,1]}
    Fires when the axes longer than 1, symbolic ones included, keep their order.
    Refuses when the shape has several symbolic sizes, which a reshape could not resolve.
    """

    name: ClassVar[str] = "transpose_as_reshape"
    equation: ClassVar[str] = "transpose(x) = reshape(x) if only axes of size 1 move"
    priority: ClassVar[int] = 14

    def match(self, network: Network, layer: Layer) -> Layer | None:
        """A transpose whose longer axes stay in order."""
        if not isinstance(layer.kind, Transpose):
            return None
        moved = [axis for axis in layer.kind.permutation if layer.inputs[0].shape[axis] != 1]
        return layer if moved == sorted(moved) else None

    def check(self, network: Network, match: Layer) -> Reject | None:
        """At most one symbolic size."""
        kind = Reshape(reshape_target(match.inputs[0].shape, match.output.shape))
        symbolic = sum(not isinstance(dim, int) for dim in kind.shape)
        if symbolic > 1 or kind.infer([match.inputs[0].type]) != (match.output.type,):
            return Reject("several sizes are symbolic", match.name)
        return None

    def rewrite(self, network: Network, match: Layer) -> Layer:
        """A reshape in its place."""
        kind = Reshape(reshape_target(match.inputs[0].shape, match.output.shape))
        return replace_layer(network, match, kind, match.inputs)
