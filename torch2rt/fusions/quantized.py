"""What fusions of quantized networks share: constants of dequantize layers, stored weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torch2rt import expression as ex
from torch2rt.fusions.rewrite import values_of
from torch2rt.layers.accumulator import has_stored_weights
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.quantize import Quantize
from torch2rt.network.dtype import Array
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor


@dataclass(frozen=True)
class Encoding:
    """x = (q - zero_point) * scale: both in float64, broadcasting to q."""

    scale: Array
    zero_point: Array

    @property
    def is_per_tensor(self) -> bool:
        """Whether one scale and one zero point serve the whole tensor."""
        return self.scale.size == 1 and self.zero_point.size == 1

    @property
    def is_symmetric(self) -> bool:
        """Whether 0 stands for 0."""
        return not self.zero_point.any()

    def equals(self, other: Encoding) -> bool:
        """Whether all q stand for the same x."""
        return _are_equal(self.scale, other.scale) and _are_equal(
            self.zero_point, other.zero_point
        )


def dequantized(tensor: Tensor) -> Layer | None:
    """The dequantize layer that writes a tensor, if one does."""
    producer = tensor.producer
    return producer if producer is not None and isinstance(producer.kind, Dequantize) else None


def stored_weight(network: Network, layer: Layer) -> Tensor | None:
    """A constant matrix of int8 that a layer converts to float for matmuls alone; else None.

    Those can read it as it is stored, so that it must not be folded.
    """
    if not isinstance(layer.kind, Pointwise) or len(layer.inputs) != 1:
        return None
    stored, dtype = layer.inputs[0], layer.output.dtype
    if not stored.is_constant or stored.rank != 2 or not has_stored_weights(dtype, stored.dtype):
        return None
    if layer.kind.expression not in (ex.Input(0), ex.cast(dtype, ex.Input(0))):
        return None
    are_matmuls = all(
        isinstance(user.kind, Matmul) and not user.kind.transpose_a
        and user.main_inputs[1] is layer.output
        and layer.output not in (user.main_inputs[0], *user.epilogue_inputs)
        for user in layer.output.users
    )
    return stored if are_matmuls and not network.is_output(layer.output) else None


def encoding_of(layer: Layer) -> Encoding | None:
    """Scale and zero point of a quantize or dequantize layer; None if they are not constant."""
    if not isinstance(layer.kind, Quantize | Dequantize):
        raise TypeError(f"{layer.kind.name} has no encoding")
    if not all(tensor.is_constant for tensor in layer.inputs[1:]):
        return None
    zero_point = np.zeros(())
    if len(layer.inputs) > 2:
        data = layer.inputs[2].data
        assert data is not None
        zero_point = data.astype(np.float64)
    return Encoding(values_of(layer.inputs[1]), zero_point)


def _are_equal(left: Array, right: Array) -> bool:
    if left.size == right.size == 1:
        return bool(left.item() == right.item())
    return left.shape == right.shape and bool((left == right).all())
