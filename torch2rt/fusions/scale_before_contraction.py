"""A scale and a shift per input channel go into the weights and the bias.

    sum over c of w[k,c] * (x[c] * s[c] + t[c]) = sum over c of (w[k,c] * s[c]) * x[c] + b[k]
    with b[k] = sum over c of w[k,c] * t[c]

A shift needs a convolution without padding: the zeros around x would not be shifted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torch2rt import expression as ex
from torch2rt.fusions.affine import affine_of
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.contraction import (
    bias_of_shifted_input,
    channel_axis,
    input_channels,
    is_costly_to_copy,
    per_channel,
    weight_of,
    with_scaled_inputs,
)
from torch2rt.fusions.rewrite import add_constant, changed_constant, replace_layer
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class ScaledInput:
    """A contraction and the pointwise layer that scales and shifts its input."""

    pointwise: Layer
    layer: Layer
    x: Tensor
    scale: Array
    shift: Array


class ScaleBeforeContraction(Fusion[ScaledInput]):
    """A convolution, deconvolution or matmul takes the affine map before it into its weights.

    Before: %a = pointwise(%x, @s[c,1,1], @t[c,1,1]) add(mul(i0,i1),i2)
            %y = convolution(%a, @w)
    After:  %y = convolution(%x, @w', @b[k,1,1]) epilogue add(i0,i1)
    Fires when the map is constant and per channel, and the contraction alone reads its result.
    Refuses a shift before padding or a deconvolution, other readers, a change of shape or dtype.
    """

    name: ClassVar[str] = "scale_before_contraction"
    equation: ClassVar[str] = "w (x * s + t) = (w * s) x + w t"
    priority: ClassVar[int] = 44

    def match(self, network: Network, layer: Layer) -> ScaledInput | None:
        """A contraction with constant weights after an affine pointwise layer."""
        if weight_of(layer) is None:
            return None
        pointwise = layer.inputs[0].producer
        if pointwise is None or not isinstance(pointwise.kind, Pointwise):
            return None
        affine = affine_of(pointwise)
        if affine is None:
            return None
        return ScaledInput(pointwise, layer, affine.x, affine.scale, affine.shift)

    def check(self, network: Network, match: ScaledInput) -> Reject | None:
        """One reader, one type, one number per channel."""
        pointwise, layer = match.pointwise, match.layer
        name = pointwise.name
        if network.only_user(pointwise.output) is not layer or (
            layer.inputs.count(pointwise.output) > 1
        ):
            return Reject(f"{pointwise.output.name} has other readers", name)
        if match.x.type != pointwise.output.type:
            return Reject(f"it changes {match.x.type} to {pointwise.output.type}", name)
        if isinstance(layer.kind, Matmul) and layer.kind.transpose_a:
            return Reject("the matmul reads its input transposed", name)
        if _factors(match) is None:
            return Reject("the factors are not one finite number per input channel", name)
        weight = layer.inputs[1]
        if is_costly_to_copy(weight, layer):
            return Reject(f"{weight.name} is large and others read it", name)
        if np.any(match.shift != 0) and not _can_shift(layer):
            return Reject("a shift does not pass through padding", name)
        return None

    def rewrite(self, network: Network, match: ScaledInput) -> Layer:
        """Scale the weights; the shift becomes a bias."""
        layer = match.layer
        factors = _factors(match)
        assert factors is not None
        scale, shift = factors
        epilogue = layer.epilogue if layer.epilogue is not None else ex.Input(0)
        operands = list(layer.epilogue_inputs)
        if np.any(shift != 0):
            bias = add_constant(
                network, f"{layer.name}.bias", bias_of_shifted_input(layer, shift), DType.FLOAT32
            )
            operands.append(bias)
            shifted = ex.apply("add", ex.Input(0), ex.Input(len(operands)))
            epilogue = ex.substitute_inputs(epilogue, {0: shifted})
        values = with_scaled_inputs(layer, scale)
        weight = changed_constant(network, layer.inputs[1], layer, values)
        return replace_layer(
            network, layer, layer.kind, (match.x, weight, *operands),
            absorbed=(match.pointwise,),
            epilogue=None if epilogue == ex.Input(0) else epilogue,
        )


def _factors(match: ScaledInput) -> tuple[Array, Array] | None:
    """Scale and shift, [c] each."""
    axis, channels = channel_axis(match.layer), input_channels(match.layer)
    scale = per_channel(match.scale, axis, channels)
    shift = per_channel(match.shift, axis, channels)
    if scale is None or shift is None:
        return None
    return (scale, shift) if np.isfinite(scale).all() and np.isfinite(shift).all() else None


def _can_shift(layer: Layer) -> bool:
    match layer.kind:
        case Convolution(padding_before=before, padding_after=after):
            return not any((*before, *after))
        case Matmul():
            return layer.inputs[1].rank == 2
    return False
