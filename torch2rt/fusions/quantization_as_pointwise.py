"""Quantize and dequantize layers that stay become pointwise layers, which fuse with others."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.quantized import encoding_of
from torch2rt.fusions.rewrite import add_constant, replace_layer
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.quantize import Quantize
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject


class QuantizationAsPointwise(Fusion[Layer]):
    """A quantize or dequantize layer is written as its expression.

    Before: %q = quantize(%x, @s) {"dtype":"int8","low":-128,"high":127}
    After:  %q = pointwise(%x) to_int8(clamp(round(mul(i0,1/s)),-128.0,127.0))
    Fires on every such layer. It stands behind the fusions that take them into other layers.
    Refuses never.
    """

    name: ClassVar[str] = "quantization_as_pointwise"
    equation: ClassVar[str] = "quantize(x) = clamp(round(x / s) + z)"
    priority: ClassVar[int] = 38

    def match(self, network: Network, layer: Layer) -> Layer | None:
        """A quantize or dequantize layer."""
        return layer if isinstance(layer.kind, Quantize | Dequantize) else None

    def check(self, network: Network, match: Layer) -> Reject | None:
        """Nothing to refuse."""
        return None

    def rewrite(self, network: Network, match: Layer) -> Layer:
        """The expression over the same inputs, a zero point of zeros left out."""
        kind = match.kind
        assert isinstance(kind, Quantize | Dequantize)
        encoding = encoding_of(match)
        inputs = match.inputs
        if encoding is not None and encoding.is_symmetric:
            inputs = inputs[:2]
        expression = kind.expression(len(inputs) > 2)
        if encoding is not None and isinstance(kind, Quantize):
            inputs, expression = _by_product(network, match, inputs, expression)
        return replace_layer(network, match, Pointwise(expression, kind.dtype), inputs)


def _by_product(
    network: Network, layer: Layer, inputs: tuple[Tensor, ...], expression: ex.Expression
) -> tuple[tuple[Tensor, ...], ex.Expression]:
    """The expression with 1 / scale as a constant, the reciprocal taken in float32."""
    scale = layer.inputs[1]
    assert scale.data is not None
    factors = 1 / scale.data.astype(np.float32)
    constant = add_constant(network, f"{layer.name}.factor", factors, DType.FLOAT32)
    reciprocal = ex.apply("reciprocal", ex.Input(1))
    return (inputs[0], constant, *inputs[2:]), _replaced(expression, reciprocal)


def _replaced(expression: ex.Expression, reciprocal: ex.Expression) -> ex.Expression:
    if expression == reciprocal:
        return ex.Input(1)
    if isinstance(expression, ex.Apply):
        arguments = tuple(_replaced(item, reciprocal) for item in expression.arguments)
        return ex.Apply(expression.op, arguments)
    return expression
