"""Attention broadcasts its mask by itself."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused
from torch2rt.layers.attention import Attention
from torch2rt.layers.expand import Expand
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class ExpandIntoAttention(Fusion[_Match]):
    """An attention layer reads its mask before it was expanded.

    Before: %e = expand(%m[1,1,8,8]) {"shape": [s0,1,8,8]}   %y = attention(%q, %k, %v, %e)
    After:  %y = attention(%q, %k, %v, %m[1,1,8,8])
    Fires whoever else reads %e.
    Refuses nothing: what broadcast to %e broadcasts to the scores.
    """

    name: ClassVar[str] = "expand_into_attention"
    equation: ClassVar[str] = "attention(q, k, v, expand(m)) = attention(q, k, v, m)"
    priority: ClassVar[int] = 32

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """An attention layer with an expanded mask."""
        if not isinstance(layer.kind, Attention) or not layer.kind.has_mask:
            return None
        producer = layer.inputs[3].producer
        if producer is None or not isinstance(producer.kind, Expand):
            return None
        return producer, layer

    def check(self, network: Network, match: _Match) -> Reject | None:
        """Nothing to refuse."""
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Read the mask before it is expanded."""
        expand, layer = match
        network.set_origins(layer, merged_origins(expand, layer))
        network.set_inputs(layer, (*layer.inputs[:3], *expand.inputs, *layer.inputs[4:]))
        remove_if_unused(network, expand)
        return layer
