"""Attention lets heads of queries share heads of keys, which nobody has to repeat."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused
from torch2rt.layers.attention import Attention
from torch2rt.layers.expand import Expand
from torch2rt.layers.reshape import Reshape, reshape_target
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class Repeated:
    """``x`` [*, h, 1, s, e], each of whose heads the layers repeat ``times``: [*, h * times, s, e].

    ``layers``: the expand and the reshape.
    """

    x: Tensor
    times: int
    layers: tuple[Layer, Layer]


@dataclass(frozen=True)
class RepeatedHeads:
    """An attention layer, and how its key and value are repeated; None for one that is not."""

    attention: Layer
    operands: tuple[Repeated | None, Repeated | None]


class RepeatIntoAttention(Fusion[RepeatedHeads]):
    """Heads of keys and values that are repeated for those of queries are read once.

    Before: %e = expand(%k[2,4,1,s,e]) {"shape": [2,4,3,s,e]}   %r = reshape(%e) [2,12,s,e]
            %y = attention(%q[2,12,l,e], %r, and %v repeated alike)
    After:  %k' = reshape(%k) [2,4,s,e]   %y = attention(%q, %k', %v') {"is_grouped": true}
    Fires when key and value are repeated the same number of times.
    Refuses when only one of them is, or they differ.
    """

    name: ClassVar[str] = "repeat_into_attention"
    equation: ClassVar[str] = "attention(q, repeat(k), repeat(v)) = grouped attention(q, k, v)"
    priority: ClassVar[int] = 32

    def match(self, network: Network, layer: Layer) -> RepeatedHeads | None:
        """An attention layer with a repeated key or value."""
        kind = layer.kind
        if not isinstance(kind, Attention) or kind.is_grouped:
            return None
        if kind.query_heads_last or kind.key_heads_last or kind.value_heads_last:
            return None
        key, value = (_repeated(tensor) for tensor in layer.inputs[1:3])
        return RepeatedHeads(layer, (key, value)) if key or value else None

    def check(self, network: Network, match: RepeatedHeads) -> Reject | None:
        """Both are repeated alike, for as many heads as the query has."""
        key, value = match.operands
        name = match.attention.name
        if key is None or value is None:
            return Reject("only one of key and value is repeated", name)
        if key.times != value.times:
            return Reject(f"key and value are repeated {key.times} and {value.times} times", name)
        query, repeated = match.attention.inputs[0], match.attention.inputs[1]
        if query.rank < 3 or query.shape[-3] != repeated.shape[-3]:
            return Reject(f"{query.type} has other heads than {repeated.type}", name)
        return None

    def rewrite(self, network: Network, match: RepeatedHeads) -> Layer:
        """Read both as they are before."""
        attention = match.attention
        assert isinstance(attention.kind, Attention)
        found = [repeated for repeated in match.operands if repeated is not None]
        inputs = list(attention.inputs)
        for index, repeated in enumerate(found, start=1):
            inputs[index] = _without_repeats(network, repeated, attention)
        layers = [layer for repeated in found for layer in repeated.layers]
        network.set_kind(attention, dataclasses.replace(attention.kind, is_grouped=True))
        network.set_inputs(attention, tuple(inputs))
        network.set_origins(attention, merged_origins(*layers, attention))
        for layer in reversed(layers):
            remove_if_unused(network, layer)
        return attention


def _repeated(tensor: Tensor) -> Repeated | None:
    """How a tensor was made by repeating heads, if it was."""
    reshape = tensor.producer
    if reshape is None or not isinstance(reshape.kind, Reshape):
        return None
    expand = reshape.inputs[0].producer
    if expand is None or not isinstance(expand.kind, Expand) or expand.output.rank < 4:
        return None
    x, wide = expand.inputs[0], expand.output
    *batch, heads, times, rows, features = wide.shape
    if not isinstance(heads, int) or not isinstance(times, int):
        return None
    if x.shape != (*batch, heads, 1, rows, features):
        return None
    if tensor.shape != (*batch, heads * times, rows, features):
        return None
    return Repeated(x, times, (expand, reshape))


def _without_repeats(network: Network, repeated: Repeated, attention: Layer) -> Tensor:
    """The tensor without the axis of repeats."""
    shape = (*repeated.x.shape[:-3], *repeated.x.shape[-2:])
    return network.add(
        Reshape(reshape_target(repeated.x.shape, shape)), (repeated.x,), before=attention,
        name=f"{attention.name}.heads", origins=merged_origins(*repeated.layers),
    ).output
