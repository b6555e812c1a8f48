"""Convolutions, deconvolutions and matrix products as one family: where weights and channels are.

    convolution    x [n, c, *s]    w [k, c/groups, *r]    y [n, k, *s']
    deconvolution  x [n, c, *s]    w [c, k/groups, *r]    y [n, k, *s']
    matmul         x [..., m, c]   w [..., c, k] or, transposed, [..., k, c]    y [..., m, k]

The weight is the second input.
"""

from __future__ import annotations

import math

import numpy as np

from torch2rt.fusions.rewrite import values_of
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.tensor import Tensor

_LARGEST_COPY_BYTES = 16 << 20

Contraction = Convolution | Deconvolution | Matmul


def weight_of(layer: Layer) -> Tensor | None:
    """The constant float weight of a contraction, its second input; None if it has none.

    float8 is none: it has been scaled to its range, and would lose its small numbers by a scale.
    """
    if not isinstance(layer.kind, Contraction):
        return None
    weight = layer.main_inputs[1]
    is_float = weight.dtype.is_float and weight.dtype is not DType.FLOAT8_E4M3
    return weight if weight.is_constant and is_float else None


def is_costly_to_copy(weight: Tensor, layer: Layer) -> bool:
    """Whether changing the weight for one layer would keep a large second copy of it.

    Example: an embedding table that the last layer of a language model reads too.
    """
    assert weight.data is not None
    is_shared = any(user is not layer for user in weight.users)
    return is_shared and weight.data.nbytes > _LARGEST_COPY_BYTES


def channel_axis(layer: Layer) -> int:
    """The axis of channels of its input and of its output, counted from the end: negative."""
    return -1 if isinstance(layer.kind, Matmul) else 1 - layer.output.rank


def per_channel(values: Array, axis: int, channels: int) -> Array | None:
    """One value per channel, [channels], of a constant that varies along one axis only.

    ``axis`` is negative. None if the constant varies along another axis too. Example: values
    [8,1,1], axis -3, 8 channels gives [8]; values [1] gives eight times the same.
    """
    sizes = {position - values.ndim: size for position, size in enumerate(values.shape)}
    if any(size != 1 for position, size in sizes.items() if position != axis):
        return None
    if sizes.get(axis, 1) not in (1, channels):
        return None
    return np.broadcast_to(values.reshape(-1), (channels,))


def output_channels(layer: Layer) -> int | None:
    """How many channels its output has; None if that is symbolic."""
    size = layer.output.shape[channel_axis(layer)]
    return size if isinstance(size, int) else None


def input_channels(layer: Layer) -> int:
    """How many channels its input has, as its weight says."""
    weight = layer.main_inputs[1]
    match layer.kind:
        case Convolution(groups=groups):
            size = weight.shape[1] * groups
        case Deconvolution():
            size = weight.shape[0]
        case Matmul(transpose_b=is_transposed):
            size = weight.shape[-1 if is_transposed else -2]
        case _:
            raise TypeError(f"{layer.kind.name} is no contraction")
    assert isinstance(size, int)
    return size


def bias_of_shifted_input(layer: Layer, shift: Array) -> Array:
    """What a shift [c] of the input adds to the output, shaped to broadcast to it.

    A convolution must have no padding, a matmul a weight of two axes.
    """
    weight = values_of(layer.main_inputs[1])
    match layer.kind:
        case Convolution(groups=groups):
            taps = weight.reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
            bias: Array = np.einsum("gkcr,gc->gk", taps, shift.reshape(groups, -1))
            return bias.reshape(-1, *(1,) * (weight.ndim - 2))
        case Matmul(transpose_b=is_transposed):
            result: Array = weight @ shift if is_transposed else shift @ weight
            return result
    raise TypeError(f"a shift does not pass through {layer.kind.name}")


def with_scaled_outputs(layer: Layer, scale: Array) -> Array:
    """The weight, in float64, that makes output channel j times scale[j]; scale is [k]."""
    weight = values_of(layer.main_inputs[1])
    spatial = (1,) * (weight.ndim - 2)
    match layer.kind:
        case Convolution():
            return weight * scale.reshape(-1, 1, *spatial)
        case Deconvolution(groups=groups):
            per_group = scale.reshape(groups, 1, -1, *spatial)
            grouped = weight.reshape(groups, -1, *weight.shape[1:])
            return (grouped * per_group).reshape(weight.shape)
        case Matmul(transpose_b=is_transposed):
            return weight * (scale[:, None] if is_transposed else scale)
    raise TypeError(f"{layer.kind.name} is no contraction")


def with_scaled_inputs(layer: Layer, scale: Array) -> Array:
    """The weight, in float64, that takes input channel j times scale[j]; scale is [c]."""
    weight = values_of(layer.main_inputs[1])
    spatial = (1,) * (weight.ndim - 2)
    match layer.kind:
        case Convolution(groups=groups):
            per_group = scale.reshape(groups, 1, -1, *spatial)
            grouped = weight.reshape(groups, -1, *weight.shape[1:])
            return (grouped * per_group).reshape(weight.shape)
        case Deconvolution():
            return weight * scale.reshape(-1, 1, *spatial)
        case Matmul(transpose_b=is_transposed):
            return weight * (scale if is_transposed else scale[:, None])
    raise TypeError(f"{layer.kind.name} is no contraction")
