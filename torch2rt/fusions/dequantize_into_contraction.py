"""Contractions of dequantized tensors become contractions of 8-bit integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.contraction import channel_axis, output_channels, per_channel
from torch2rt.fusions.quantized import Encoding, dequantized, encoding_of
from torch2rt.fusions.rewrite import add_constant, replace_layer
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.pad import Pad
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_STORED = (*EIGHT_BITS, DType.FLOAT8_E4M3)


@dataclass(frozen=True)
class _Match:
    layer: Layer
    left: Layer
    right: Layer


class DequantizeIntoContraction(Fusion[_Match]):
    """A convolution or matmul reads the few bits themselves; the scales follow it.

    Before: %x = dequantize(%p, @sx, @zx)  @w = dequantize(@q, @sw)
            %y = convolution(%x, %w, @b) epilogue relu(add(i0,i1))
    After:  %y = convolution(%p, @q, @s, @t, @b)
                 epilogue relu(add(add(mul(to_float32(i0),i1),i2),i3))
            with s = sx * sw and t = -zx * s * sum of q, per output channel
    Fires when both inputs are 8 bits, or both float8, the first with one scale for the tensor,
    the second with one per output channel or one in all, and no zero point. A convolution that
    pads is padded with the zero point before.
    Refuses scales that are computed, and a zero point where the weight is.
    """

    name: ClassVar[str] = "dequantize_into_contraction"
    equation: ClassVar[str] = "(s (x - z)) * (t w) = s t (x * w - z sum w)"
    priority: ClassVar[int] = 5

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A contraction of two dequantized tensors."""
        if not isinstance(layer.kind, Convolution | Matmul):
            return None
        left, right = (dequantized(tensor) for tensor in layer.main_inputs)
        return _Match(layer, left, right) if left is not None and right is not None else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """The scales factor out, and integers multiply."""
        layer, left, right = match.layer, match.left, match.right
        dtypes = {left.inputs[0].dtype, right.inputs[0].dtype}
        is_float8 = dtypes == {DType.FLOAT8_E4M3}
        if not is_float8 and not dtypes <= set(EIGHT_BITS):
            return Reject(f"its operands are {_names(dtypes)}", layer.name)
        x, w = encoding_of(left), encoding_of(right)
        if x is None or w is None:
            return Reject("a scale or zero point is not constant", layer.name)
        if not x.is_per_tensor:
            return Reject("the scale of its first operand varies", layer.name)
        if not w.is_symmetric:
            return Reject("the zero point of its second operand is not 0", layer.name)
        if _per_output(layer, w) is None:
            return Reject("the scale of its second operand does not vary along outputs alone",
                          layer.name)
        weight = right.inputs[0]
        is_plain = weight.is_constant and (weight.rank == 2 or isinstance(layer.kind, Convolution))
        if not x.is_symmetric and not is_plain:
            return Reject("a zero point meets a weight that is not a constant matrix", layer.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """The layer over the stored tensors."""
        layer, left, right = match.layer, match.left, match.right
        x, w = encoding_of(left), encoding_of(right)
        assert x is not None
        assert w is not None
        scale = _per_output(layer, w)
        assert scale is not None
        scale = scale * x.scale.item()
        tensor, kind = left.inputs[0], layer.kind
        value = ex.apply("mul", ex.cast(DType.FLOAT32, ex.Input(0)), ex.Input(1))
        added = [_constant(network, layer, "scale", scale)]
        if not x.is_symmetric:
            zero = int(x.zero_point.item())
            shift = _shift(layer, right.inputs[0], scale * -zero)
            added.append(_constant(network, layer, "shift", shift))
            value = ex.apply("add", value, ex.Input(2))
            tensor, kind = _padded(network, layer, tensor, zero)
        old = layer.epilogue if layer.epilogue is not None else ex.Input(0)
        shifted = ex.shift_inputs(old, 1, len(added))
        inputs = (tensor, right.inputs[0], *added, *layer.epilogue_inputs)
        return replace_layer(
            network, layer, kind, inputs, absorbed=(left, right),
            epilogue=ex.substitute_inputs(shifted, {0: value}),
        )


def _names(dtypes: set[DType]) -> str:
    return " and ".join(sorted(dtype.value for dtype in dtypes))


def _per_output(layer: Layer, w: Encoding) -> Array | None:
    """The scale of the second operand per output channel, [k] or []; None if it is not so."""
    if w.scale.size == 1:
        return w.scale.reshape(())
    channels = output_channels(layer)
    if channels is None:
        return None
    match layer.kind:
        case Convolution():
            axis = -layer.main_inputs[1].rank
        case Matmul(transpose_b=is_transposed):
            axis = -2 if is_transposed else -1
        case _:
            return None
    return per_channel(w.scale, axis, channels)


def _constant(network: Network, layer: Layer, role: str, values: Array) -> Tensor:
    """Values [k] or [] as a constant that broadcasts to the layer's output."""
    behind = -channel_axis(layer) - 1
    shape = (*values.shape, *(1,) * behind) if values.ndim else ()
    return add_constant(network, f"{layer.name}.{role}", values.reshape(shape), DType.FLOAT32)


def _shift(layer: Layer, weight: Tensor, factor: Array) -> Array:
    """What a zero point adds to each output channel: the factor times the sum of its weights."""
    assert weight.data is not None
    values = weight.data.astype(np.float64)
    match layer.kind:
        case Matmul(transpose_b=is_transposed):
            sums = values.sum(-1 if is_transposed else -2)
        case _:
            sums = values.reshape(values.shape[0], -1).sum(1)
    product: Array = np.asarray(factor * sums, np.float64)
    return product


def _padded(
    network: Network, layer: Layer, tensor: Tensor, zero: int
) -> tuple[Tensor, Convolution | Matmul]:
    """The stored tensor padded with its zero point, and the kind without padding."""
    kind = layer.kind
    assert isinstance(kind, Convolution | Matmul)
    if isinstance(kind, Matmul) or not any((*kind.padding_before, *kind.padding_after)):
        return tensor, kind
    pad = Pad((0, 0, *kind.padding_before), (0, 0, *kind.padding_after), "constant", zero)
    padded = network.add(pad, [tensor], before=layer, name=f"{layer.name}.pad",
                         origins=layer.origins)
    nothing: Sequence[int] = (0,) * len(kind.stride)
    return padded.output, dataclasses.replace(
        kind, padding_before=tuple(nothing), padding_after=tuple(nothing)
    )
