"""Attention over dequantized tensors becomes attention over float8."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.quantized import Encoding, dequantized, encoding_of
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.attention import Attention
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_ROLES = ("query", "key", "value")


@dataclass(frozen=True)
class _Match:
    layer: Layer
    producers: tuple[Layer | None, ...]


class DequantizeIntoAttention(Fusion[_Match]):
    """Attention reads float8 itself; the scales are of its scores and of its result.

    Before: %q = dequantize(%r, @a)  %k = dequantize(%s, @b)  %v = dequantize(%t, @c)
            %y = attention(%q, %k, %v) {"scale":0.125}
    After:  %y = attention(%r, %s, %t) {"scale":0.125*a*b} epilogue mul(i0,c)
    Fires when all three are float8, with one constant scale each and no zero point.
    Refuses where one of them is no float8 or is scaled by channel; integers are refused, which
    have too few steps near zero for shares.
    """

    name: ClassVar[str] = "dequantize_into_attention"
    equation: ClassVar[str] = "softmax(a q (b k)^T) c v = c softmax(a b q k^T) v"
    priority: ClassVar[int] = 5

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """An attention layer of which an operand is dequantized."""
        if not isinstance(layer.kind, Attention):
            return None
        producers = tuple(dequantized(tensor) for tensor in layer.inputs[:3])
        return _Match(layer, producers) if any(producers) else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """The scales factor out."""
        name = match.layer.name
        for role, producer in zip(_ROLES, match.producers, strict=True):
            if producer is None:
                return Reject(f"its {role} is not dequantized", name)
            stored = producer.inputs[0].dtype
            if stored is not DType.FLOAT8_E4M3:
                return Reject(f"its {role} is {stored.value}", name)
            encoding = encoding_of(producer)
            if encoding is None or not encoding.is_per_tensor:
                return Reject(f"the scale of its {role} is not one constant", name)
            if not encoding.is_symmetric:
                return Reject(f"the zero point of its {role} is not 0", name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """The layer over the stored tensors."""
        layer = match.layer
        assert isinstance(layer.kind, Attention)
        producers = [producer for producer in match.producers if producer is not None]
        q, k, v = (_scale(encoding_of(producer)) for producer in producers)
        old = layer.epilogue if layer.epilogue is not None else ex.Input(0)
        value = ex.apply("mul", ex.Input(0), v)
        return replace_layer(
            network, layer, dataclasses.replace(layer.kind, scale=layer.kind.scale * q * k),
            (*(producer.inputs[0] for producer in producers), *layer.inputs[3:]),
            absorbed=tuple(dict.fromkeys(producers)),
            epilogue=ex.substitute_inputs(old, {0: value}),
        )


def _scale(encoding: Encoding | None) -> float:
    assert encoding is not None
    return float(encoding.scale.item())
