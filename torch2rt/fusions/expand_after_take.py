"""Rows of a table are taken once and then repeated."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused, replace_by
from torch2rt.layers.expand import Expand
from torch2rt.layers.take import Take
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class ExpandAfterTake(Fusion[_Match]):
    """Take the rows that a small index names, then expand the result.

    Before: %e = expand(@i[1,8]) {"shape": [s0,8]}   %y = take(@t[2,16], %e) {"axis": 0}
    After:  %r = take(@t[2,16], @i)   %y = expand(%r[1,8,16]) {"shape": [s0,8,16]}
    Fires whoever else reads %e. Positions and token types of a language model are constant then,
    and what adds them reads a few rows.
    Refuses an axis other than the first where the expand adds axes.
    """

    name: ClassVar[str] = "expand_after_take"
    equation: ClassVar[str] = "take(t, expand(i)) = expand(take(t, i))"
    priority: ClassVar[int] = 33

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A take whose index is expanded."""
        if not isinstance(layer.kind, Take):
            return None
        producer = layer.inputs[1].producer
        if producer is None or not isinstance(producer.kind, Expand):
            return None
        return producer, layer

    def check(self, network: Network, match: _Match) -> Reject | None:
        """New axes stay in front."""
        expand, take = match
        assert isinstance(take.kind, Take)
        if take.kind.axis and expand.inputs[0].rank != expand.output.rank:
            return Reject(f"{expand.name} adds axes behind those of the table", take.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """A take by the small index, then an expand."""
        expand, take = match
        small = network.add(
            take.kind, (take.inputs[0], expand.inputs[0]), before=take, name=take.name,
            output_dtypes=[take.output.dtype], origins=merged_origins(expand, take),
        )
        result = network.add(
            Expand(take.output.shape), (small.output,), before=take, name=expand.name,
            origins=expand.origins,
        )
        replace_by(network, take, result.output)
        remove_if_unused(network, expand)
        return small
