"""Pointwise layers compute before an expand instead of after it."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused, replace_by
from torch2rt.layers.expand import Expand
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class ExpandAfterPointwise(Fusion[_Match]):
    """Compute on the small tensor, then expand the result.

    Before: %e = expand(%m[1,1,8,8]) {"shape": [s0,1,8,8]}   %y = pointwise(%e, @c[4,8,8])
    After:  %p = pointwise(%m, @c[4,8,8])   %y = expand(%p[1,4,8,8]) {"shape": [s0,4,8,8]}
    Fires when the expand makes the result larger than the other operands would: a mask is computed
    once instead of once per sample, and at conversion if it is constant.
    Refuses when the expand has other readers, or is a network output.
    """

    name: ClassVar[str] = "expand_after_pointwise"
    equation: ClassVar[str] = "f(expand(m), c) = expand(f(m, c))"
    priority: ClassVar[int] = 33

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A pointwise layer whose shape an expand gives."""
        if not isinstance(layer.kind, Pointwise):
            return None
        for tensor in layer.inputs:
            producer = tensor.producer
            if producer is None or not isinstance(producer.kind, Expand):
                continue
            small = layer.kind.infer([t.type for t in _inputs(producer, layer)])[0]
            if small.shape != layer.output.shape:
                return producer, layer
        return None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """One reader."""
        expand, layer = match
        if network.only_user(expand.output) is not layer:
            return Reject(f"{expand.output.name} has other readers", expand.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """A pointwise layer on what was expanded, then an expand."""
        expand, layer = match
        small = network.add(
            layer.kind, _inputs(expand, layer), before=layer, name=layer.name,
            origins=merged_origins(expand, layer),
        )
        result = network.add(
            Expand(layer.output.shape), (small.output,), before=layer, name=expand.name,
            origins=expand.origins,
        )
        replace_by(network, layer, result.output)
        remove_if_unused(network, expand)
        return small


def _inputs(expand: Layer, layer: Layer) -> tuple[Tensor, ...]:
    return tuple(expand.inputs[0] if t is expand.output else t for t in layer.inputs)
