"""A reshape that joins axes which a transpose has left alone may come first."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, replace_layer
from torch2rt.layers.reshape import Reshape, reshape_target
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


class ReshapeBeforeTranspose(Fusion[tuple[Layer, Layer]]):
    """Join the last axes first, so that the transpose may meet another one.

    Before: %t = transpose(%x[b,l,h,e]) {"permutation": [1,0,2,3]}   %y = reshape(%t) [l,b,h*e]
    After:  %r = reshape(%x) [b,l,h*e]   %y = transpose(%r) {"permutation": [1,0,2]}
    Fires when the transpose keeps the joined axes last and in order, and all others stay apart.
    Refuses when the transpose has other readers.
    """

    name: ClassVar[str] = "reshape_before_transpose"
    equation: ClassVar[str] = "reshape(transpose(x)) = transpose(reshape(x))"
    priority: ClassVar[int] = 13

    def match(self, network: Network, layer: Layer) -> tuple[Layer, Layer] | None:
        """Such a reshape behind such a transpose."""
        transpose = layer.inputs[0].producer if isinstance(layer.kind, Reshape) else None
        if transpose is None or not isinstance(transpose.kind, Transpose):
            return None
        kept = layer.output.rank - 1
        permutation = transpose.kind.permutation
        joined = tuple(range(kept, len(permutation)))
        if kept < 2 or len(joined) < 2 or permutation[kept:] != joined:
            return None
        is_same = layer.output.shape[:kept] == transpose.output.shape[:kept]
        return (transpose, layer) if is_same else None

    def check(self, network: Network, match: tuple[Layer, Layer]) -> Reject | None:
        """Nothing else reads the transpose."""
        transpose, reshape = match
        if network.only_user(transpose.output) is not reshape:
            return Reject(f"{transpose.output.name} has other readers", transpose.name)
        return None

    def rewrite(self, network: Network, match: tuple[Layer, Layer]) -> Layer:
        """The reshape, then the transpose of fewer axes."""
        transpose, reshape = match
        assert isinstance(transpose.kind, Transpose)
        x = transpose.inputs[0]
        kept = reshape.output.rank - 1
        shape = (*x.shape[:kept], reshape.output.shape[-1])
        joined = network.add(
            Reshape(reshape_target(x.shape, shape)), (x,), before=transpose,
            name=f"{transpose.name}.joined", origins=merged_origins(transpose, reshape),
        )
        kind = Transpose((*transpose.kind.permutation[:kept], kept))
        return replace_layer(network, reshape, kind, joined.outputs, absorbed=(transpose,))
