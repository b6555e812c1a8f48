"""Pixels become rows: the channels move behind them before the pixels are joined."""

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


class ReshapeAfterTranspose(Fusion[tuple[Layer, Layer]]):
    """Move the channels of an image last, then join its pixels.

    Before: %r = reshape(%x[b,c,h,w]) [b,c,h*w]   %y = transpose(%r) {"permutation": [0,2,1]}
    After:  %t = transpose(%x) {"permutation": [0,2,3,1]}   %y = reshape(%t) [b,h*w,c]
    Fires on a GPU, where images lie with their channels last: both layers move nothing then.
    Refuses when the reshape has other readers.
    """

    name: ClassVar[str] = "reshape_after_transpose"
    equation: ClassVar[str] = "transpose(reshape(x)) = reshape(transpose(x))"
    priority: ClassVar[int] = 14

    def __init__(self, is_enabled: bool = True) -> None:
        self.is_enabled = is_enabled

    @classmethod
    def for_target(cls, target: str) -> Self:
        """On a GPU alone: a CPU's images lie in blocks of channels."""
        return cls(target == "cuda")

    def match(self, network: Network, layer: Layer) -> tuple[Layer, Layer] | None:
        """Such a transpose behind such a reshape."""
        if not self.is_enabled or layer.kind != Transpose(_ROWS_LAST):
            return None
        reshape = layer.inputs[0].producer
        if reshape is None or not isinstance(reshape.kind, Reshape):
            return None
        x = reshape.inputs[0]
        is_joined = x.rank > 3 and x.shape[:2] == reshape.output.shape[:2]
        return (reshape, layer) if is_joined else None

    def check(self, network: Network, match: tuple[Layer, Layer]) -> Reject | None:
        """Nothing else reads the reshape."""
        reshape, transpose = match
        if network.only_user(reshape.output) is not transpose:
            return Reject(f"{reshape.output.name} has other readers", reshape.name)
        return None

    def rewrite(self, network: Network, match: tuple[Layer, Layer]) -> Layer:
        """The transpose of all axes, then the reshape."""
        reshape, transpose = match
        x = reshape.inputs[0]
        moved = network.add(
            Transpose((0, *range(2, x.rank), 1)), (x,), before=transpose,
            name=f"{transpose.name}.pixels", origins=transpose.origins,
        )
        kind = Reshape(reshape_target(moved.output.shape, transpose.output.shape))
        return replace_layer(network, transpose, kind, (moved.output,), absorbed=(reshape,))
