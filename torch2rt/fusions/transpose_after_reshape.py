"""Rows become pixels: they are split before the channels move in front of them."""

from __future__ import annotations

from typing import ClassVar, Self

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.reshape import Reshape, reshape_target
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_ROWS_LAST = (0, 2, 1)


class TransposeAfterReshape(Fusion[tuple[Layer, Layer]]):
    """Split the rows into pixels, then move the channels in front of them.

    Before: %t = transpose(%x[b,l,c]) {"permutation": [0,2,1]}   %y = reshape(%t) [b,c,h,w]
    After:  %r = reshape(%x) [b,h,w,c]   %y = transpose(%r) {"permutation": [0,3,1,2]}
    Fires on a GPU, where images lie with their channels last: both layers move nothing then.
    Refuses when the transpose has other readers.
    """

    name: ClassVar[str] = "transpose_after_reshape"
    equation: ClassVar[str] = "reshape(transpose(x)) = transpose(reshape(x))"
    priority: ClassVar[int] = 14

    def __init__(self, is_enabled: bool = True) -> None:
        self.is_enabled = is_enabled

    @classmethod
    def for_target(cls, target: str) -> Self:
        """On a GPU alone: a CPU's images lie in blocks of channels."""
        return cls(target == "cuda")

    def match(self, network: Network, layer: Layer) -> tuple[Layer, Layer] | None:
        """Such a reshape behind such a transpose."""
        if not self.is_enabled or not isinstance(layer.kind, Reshape):
            return None
        transpose = layer.inputs[0].producer
        if transpose is None or transpose.kind != Transpose(_ROWS_LAST):
            return None
        y = layer.output
        is_split = y.rank > 3 and y.shape[:2] == transpose.output.shape[:2]
        return (transpose, layer) if is_split else None

    def check(self, network: Network, match: tuple[Layer, Layer]) -> Reject | None:
        """Nothing else reads the transpose."""
        transpose, reshape = match
        if network.only_user(transpose.output) is not reshape:
            return Reject(f"{transpose.output.name} has other readers", transpose.name)
        return None

    def rewrite(self, network: Network, match: tuple[Layer, Layer]) -> Layer:
        """The reshape, then the transpose of all axes."""
        transpose, reshape = match
        x, y = transpose.inputs[0], reshape.output
        shape = (y.shape[0], *y.shape[2:], y.shape[1])
        split = network.add(
            Reshape(reshape_target(x.shape, shape)), (x,), before=reshape,
            name=f"{reshape.name}.pixels", origins=transpose.origins,
        )
        kind = Transpose((0, y.rank - 1, *range(1, y.rank - 1)))
        return replace_layer(network, reshape, kind, (split.output,), absorbed=(transpose,))
