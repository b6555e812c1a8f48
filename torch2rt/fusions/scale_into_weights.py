"""A scale per output channel goes into the weights: batch norm folding, layer scale, 1/sqrt(d).

    (sum over c of w[k,c] * x[c]) * s[k] = sum over c of (w[k,c] * s[k]) * x[c]

The factor stands in the epilogue of the layer, next to the accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.contraction import (
    channel_axis,
    is_costly_to_copy,
    output_channels,
    per_channel,
    weight_of,
    with_scaled_outputs,
)
from torch2rt.fusions.operands import joined
from torch2rt.fusions.rewrite import changed_constant, values_of
from torch2rt.network.dtype import Array
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class ScaledResult:
    """A layer whose epilogue reads its result only as ``mul(i0, scale)``."""

    layer: Layer
    product: ex.Expression
    values: Array
    scale: Array | None


class ScaleIntoWeights(Fusion[ScaledResult]):
    """A convolution, deconvolution or matmul takes a constant factor into its weights.

    Before: convolution(%x, @w[k,c,3,3], @s[k,1,1], @t[k,1,1]) epilogue relu(add(mul(i0,i1),i2))
    After:  convolution(%x, @w'[k,c,3,3], @t[k,1,1]) epilogue relu(add(i0,i1))
    Fires when the epilogue reads ``i0`` only times one constant that varies along the channels
    only. Computed in float64, stored in the weight's dtype; a weight that others read is copied.
    Refuses when the factor varies along another axis or is not finite, or when a large weight
    would have to be copied.
    """

    name: ClassVar[str] = "scale_into_weights"
    equation: ClassVar[str] = "(w x) * s = (w * s) x"
    priority: ClassVar[int] = 42

    def match(self, network: Network, layer: Layer) -> ScaledResult | None:
        """A layer with constant weights whose epilogue starts with a constant factor."""
        if layer.epilogue is None or weight_of(layer) is None:
            return None
        product = _only_product(layer.epilogue)
        if product is None:
            return None
        factor = product.arguments[1]
        match factor:
            case ex.Constant(value):
                values = np.asarray(value, np.float64)
            case ex.Input(index) if _is_float_constant(layer.epilogue_inputs[index - 1]):
                values = values_of(layer.epilogue_inputs[index - 1])
            case _:
                return None
        channels = output_channels(layer)
        scale = None if channels is None else per_channel(values, channel_axis(layer), channels)
        return ScaledResult(layer, product, values, scale)

    def check(self, network: Network, match: ScaledResult) -> Reject | None:
        """The factor is one number per channel."""
        if match.scale is None:
            return Reject(f"the factor {match.values.shape} is not one per output channel",
                          match.layer.name)
        if not np.isfinite(match.scale).all():
            return Reject("the factor is not finite", match.layer.name)
        weight = match.layer.main_inputs[1]
        if is_costly_to_copy(weight, match.layer):
            return Reject(f"{weight.name} is large and others read it", match.layer.name)
        return None

    def rewrite(self, network: Network, match: ScaledResult) -> Layer:
        """Scale the weights and drop the factor."""
        layer = match.layer
        assert match.scale is not None
        assert layer.epilogue is not None
        old = layer.main_inputs[1]
        weight = changed_constant(network, old, layer, with_scaled_outputs(layer, match.scale))
        expression = _without(layer.epilogue, match.product)
        bound = joined(expression, (layer.output, *layer.epilogue_inputs), fixed=1)
        operands = tuple(item for item in bound.operands[1:] if isinstance(item, Tensor))
        network.set_epilogue(
            layer, None if bound.expression == ex.Input(0) else bound.expression, operands
        )
        network.set_inputs(layer, (layer.inputs[0], weight, *layer.inputs[2:]))
        return layer


def _is_float_constant(tensor: Tensor) -> bool:
    return tensor.is_constant and tensor.dtype.is_float


def _only_product(epilogue: ex.Expression) -> ex.Apply | None:
    """The node ``mul(i0, leaf)`` if i0 is read nowhere else; all its copies count as one."""
    products = {
        node for node in ex.walk(epilogue)
        if isinstance(node, ex.Apply) and ex.Input(0) in node.arguments
    }
    if len(products) != 1:
        return None
    (product,) = products
    if product.op != "mul" or product.arguments[0] != ex.Input(0):
        return None
    return product if isinstance(product.arguments[1], ex.Input | ex.Constant) else None


def _without(node: ex.Expression, product: ex.Expression) -> ex.Expression:
    """The expression with the product replaced by i0."""
    if node == product:
        return ex.Input(0)
    if isinstance(node, ex.Apply):
        return ex.Apply(node.op, tuple(_without(a, product) for a in node.arguments))
    return node
