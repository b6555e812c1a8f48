"""A slice of a slice is one slice."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.slice import Slice
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class MergeSlices(Fusion[_Match]):
    """The second slice reads the first one's input.

    Before: %a = slice(%x) {"starts": [2], "sizes": [8], "steps": [1]}
            %y = slice(%a) {"starts": [1], "sizes": [3], "steps": [2]}
    After:  %y = slice(%x) {"starts": [3], "sizes": [3], "steps": [2]}
    Fires whoever else reads %a: a slice is a view.
    Refuses when the first walks backwards.
    """

    name: ClassVar[str] = "merge_slices"
    equation: ClassVar[str] = "x[a:][b:] = x[a+b:]"
    priority: ClassVar[int] = 12

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """Two slices in a row."""
        if not isinstance(layer.kind, Slice):
            return None
        first = layer.inputs[0].producer
        return (first, layer) if first is not None and isinstance(first.kind, Slice) else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """The first walks forwards."""
        first, _ = match
        assert isinstance(first.kind, Slice)
        if min(first.kind.steps, default=1) < 1:
            return Reject(f"{first.name} walks backwards", first.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """One slice of the first one's input."""
        first, second = match
        assert isinstance(first.kind, Slice)
        assert isinstance(second.kind, Slice)
        inner, outer = first.kind, second.kind
        kind = Slice(
            starts=tuple(
                start + step * more
                for start, step, more in zip(inner.starts, inner.steps, outer.starts, strict=True)
            ),
            sizes=outer.sizes,
            steps=tuple(a * b for a, b in zip(inner.steps, outer.steps, strict=True)),
        )
        return replace_layer(network, second, kind, first.inputs, absorbed=(first,))
