"""Plugins that say they take int8 read dequantized tensors as they are stored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.quantized import Encoding, dequantized, encoding_of
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.layers.plugin import Plugin
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class _Match:
    layer: Layer
    index: int
    source: Layer


class DequantizeIntoPlugin(Fusion[_Match]):
    """A plugin reads 8 bits and their scale.

    Before: %x = dequantize(%q, @s)  %y = plugin(%x)
    After:  %y = plugin(%q) {"scales": [s]}
    Fires when the plugin lists int8 among its precisions, and the scale is one constant number.
    Refuses a zero point: plugins are given scales alone.
    """

    name: ClassVar[str] = "dequantize_into_plugin"
    equation: ClassVar[str] = "p(s q) = p'(q, s)"
    priority: ClassVar[int] = 5

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A plugin that takes int8, and the first dequantized tensor it reads."""
        if not isinstance(layer.kind, Plugin) or not layer.kind.computes_in(DType.INT8):
            return None
        for index, tensor in enumerate(layer.main_inputs):
            source = dequantized(tensor)
            if source is not None and source.inputs[0].dtype in EIGHT_BITS:
                return _Match(layer, index, source)
        return None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """One number says what the stored bytes mean."""
        encoding = encoding_of(match.source)
        if encoding is None or not encoding.is_per_tensor or not encoding.is_symmetric:
            return Reject("the scale is not one number, or there is a zero point",
                          match.layer.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """The plugin over the stored tensor."""
        layer, kind = match.layer, match.layer.kind
        encoding = encoding_of(match.source)
        assert isinstance(kind, Plugin)
        assert isinstance(encoding, Encoding)
        scales = list(kind.scales or (0.0,) * len(layer.main_inputs))
        scales[match.index] = float(encoding.scale.item())
        inputs = list(layer.inputs)
        inputs[match.index] = match.source.inputs[0]
        return replace_layer(
            network, layer, dataclasses.replace(kind, scales=tuple(scales)), tuple(inputs),
            absorbed=(match.source,), epilogue=layer.epilogue,
        )
