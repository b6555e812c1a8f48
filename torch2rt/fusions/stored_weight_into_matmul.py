"""Matmuls of floats read weights as they are stored: in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.contraction import output_channels, per_channel
from torch2rt.fusions.quantized import dequantized, encoding_of, stored_weight
from torch2rt.fusions.rewrite import add_constant, replace_layer
from torch2rt.layers.accumulator import has_stored_weights
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class _Match:
    """A matmul and what makes its weight float: a dequantize layer, or a conversion."""

    layer: Layer
    weight: Layer

    @property
    def has_scale(self) -> bool:
        return isinstance(self.weight.kind, Dequantize)


class StoredWeightIntoMatmul(Fusion[_Match]):
    """A matmul multiplies by the stored whole numbers; their scale follows it.

    Before: %w = dequantize(@q, @s)
            %y = matmul(%x, %w, @b) epilogue add(i0,i1)
    After:  %y = matmul(%x, @q, @s, @b) epilogue add(mul(i0,i1),i2)
            or
            %w = pointwise(@q) to_float32(i0)
            %y = matmul(%x, %w) epilogue mul(i0,i1)
    After:  %y = matmul(%x, @q) epilogue mul(i0,i1)
    Fires on constant matrices of int8 with one scale per output channel or one in all, beside
    floats: the engine keeps them, and kernels read them, in 8 bits. It stands behind the fusions
    that make contractions of 8 bits, and before what writes dequantize layers as expressions.
    Refuses other dtypes, scales along inputs, zero points, and a transposed first operand.
    """

    name: ClassVar[str] = "stored_weight_into_matmul"
    equation: ClassVar[str] = "x (s q) = s (x q)"
    priority: ClassVar[int] = 37

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A matmul by a dequantized constant matrix."""
        if not isinstance(layer.kind, Matmul):
            return None
        weight = layer.inputs[1].producer
        if weight is not None and stored_weight(network, weight) is not None:
            return _Match(layer, weight)
        weight = dequantized(layer.inputs[1])
        if weight is None or not weight.inputs[0].is_constant or weight.inputs[0].rank != 2:
            return None
        return _Match(layer, weight)

    def check(self, network: Network, match: _Match) -> Reject | None:
        """Stored in int8, symmetric, scaled per output channel."""
        layer, stored = match.layer, match.weight.inputs[0]
        if not has_stored_weights(layer.inputs[0].dtype, stored.dtype):
            return Reject(
                f"a weight of {stored.dtype.value} beside {layer.inputs[0].dtype.value}", layer.name
            )
        if isinstance(layer.kind, Matmul) and layer.kind.transpose_a:
            return Reject("its first operand is transposed", layer.name)
        if match.has_scale and _scale(match) is None:
            return Reject("its weight has a zero point, or other scales than one per output "
                          "channel", layer.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """The layer over the stored weight."""
        layer, stored = match.layer, match.weight.inputs[0]
        if not match.has_scale:
            inputs = (layer.inputs[0], stored, *layer.epilogue_inputs)
            return replace_layer(
                network, layer, layer.kind, inputs, absorbed=(match.weight,),
                epilogue=layer.epilogue,
            )
        scale = _scale(match)
        assert scale is not None
        constant = add_constant(network, f"{layer.name}.scale", scale, DType.FLOAT32)
        old = layer.epilogue if layer.epilogue is not None else ex.Input(0)
        value = ex.apply("mul", ex.Input(0), ex.Input(1))
        inputs = (layer.inputs[0], stored, constant, *layer.epilogue_inputs)
        return replace_layer(
            network, layer, layer.kind, inputs, absorbed=(match.weight,),
            epilogue=ex.substitute_inputs(ex.shift_inputs(old, 1, 1), {0: value}),
        )


def _scale(match: _Match) -> Array | None:
    """The scale per output channel, [k] or []; None if it is not so."""
    encoding = encoding_of(match.weight)
    if encoding is None or not encoding.is_symmetric:
        return None
    if encoding.scale.size == 1:
        return encoding.scale.reshape(())
    kind, channels = match.layer.kind, output_channels(match.layer)
    assert isinstance(kind, Matmul)
    if channels is None:
        return None
    return per_channel(encoding.scale, -2 if kind.transpose_b else -1, channels)
