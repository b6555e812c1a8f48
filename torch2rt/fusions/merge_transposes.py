"""A transpose of a transpose is one transpose."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


class MergeTransposes(Fusion[tuple[Layer, Layer]]):
    """Compose two permutations.

    Before: %a = transpose(%x) {"permutation": [0,2,3,1]}
            %y = transpose(%a) {"permutation": [0,3,1,2]}
    After:  %y = transpose(%x) {"permutation": [0,1,2,3]}, which `RemoveIdentity` takes out
    Fires when the two cancel, or nothing else reads %a.
    Refuses when %a is needed anyway: two transposes would stay two.
    """

    name: ClassVar[str] = "merge_transposes"
    equation: ClassVar[str] = "transpose(transpose(x, p), q) = transpose(x, p o q)"
    priority: ClassVar[int] = 12

    def match(self, network: Network, layer: Layer) -> tuple[Layer, Layer] | None:
        """Two transposes in a row."""
        if not isinstance(layer.kind, Transpose):
            return None
        first = layer.inputs[0].producer
        if first is None or not isinstance(first.kind, Transpose):
            return None
        return first, layer

    def check(self, network: Network, match: tuple[Layer, Layer]) -> Reject | None:
        """They cancel, or the first goes away."""
        first, second = match
        kind = _composed(first, second)
        if kind.permutation == tuple(range(len(kind.permutation))):
            return None
        if network.only_user(first.output) is not second:
            return Reject(f"{first.output.name} has other readers", first.name)
        return None

    def rewrite(self, network: Network, match: tuple[Layer, Layer]) -> Layer:
        """One transpose of the first one's input."""
        first, second = match
        kind = _composed(first, second)
        return replace_layer(network, second, kind, first.inputs, absorbed=(first,))


def _composed(first: Layer, second: Layer) -> Transpose:
    assert isinstance(first.kind, Transpose)
    assert isinstance(second.kind, Transpose)
    inner = first.kind.permutation
    return Transpose(tuple(inner[axis] for axis in second.kind.permutation))
