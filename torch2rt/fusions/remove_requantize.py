"""Dequantizing and quantizing again by the same scale is nothing."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.quantized import dequantized, encoding_of
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused, replace_by
from torch2rt.layers.quantize import Quantize
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class RemoveRequantize(Fusion[_Match]):
    """A tensor that is stored already is not stored again.

    Before: %x = dequantize(%p, @s)
            %q = quantize(%x, @s) {"low":-128,"high":127}
    After:  %p in place of %q
    Fires when dtype, scale and zero point are the same and the range is all of the dtype.
    Refuses a narrower range, which would clamp.
    """

    name: ClassVar[str] = "remove_requantize"
    equation: ClassVar[str] = "round((s q) / s) = q"
    priority: ClassVar[int] = 7

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A quantize layer after a dequantize layer."""
        if not isinstance(layer.kind, Quantize):
            return None
        producer = dequantized(layer.inputs[0])
        return (producer, layer) if producer is not None else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """Nothing is lost between the two."""
        producer, layer = match
        kind = layer.kind
        assert isinstance(kind, Quantize)
        if producer.inputs[0].dtype is not kind.dtype or kind.dtype.is_float:
            return Reject(f"{producer.inputs[0].type} becomes {kind.dtype.value}", layer.name)
        before, after = encoding_of(producer), encoding_of(layer)
        if before is None or after is None or not before.equals(after):
            return Reject("the scales or zero points differ", layer.name)
        limits = np.iinfo(kind.dtype.numpy)
        if (kind.low, kind.high) != (limits.min, limits.max):
            return Reject(f"it clamps to {kind.low}..{kind.high}", layer.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Readers of the second read what the first does."""
        producer, layer = match
        stored = producer.inputs[0]
        network.set_origins(layer, merged_origins(producer, layer))
        replace_by(network, layer, stored)
        result = stored.producer if stored.producer is not None else producer
        remove_if_unused(network, producer)
        return result
