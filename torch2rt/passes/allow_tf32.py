"""Allow TF32: float32 convolutions and products may round their operands to TF32.

Before: conv(x: f32, w: f32) -> y: f32
After:  conv(x: f32, w: f32) {"tf32": true} -> y: f32

TF32 keeps float32's exponent and 10 bits of its mantissa; tensor cores multiply it several times
as fast and still add in float32. Tensors between layers stay float32. Weights are rounded here, to
the nearest: tensor cores cut off what they read, which makes every product a little smaller and
adds up from layer to layer. It runs last: fusions compare kinds and need not know of it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import Array, DType
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Log, Pass


class AllowTf32(Pass):
    """Sets ``tf32`` on every layer that multiplies float32 operands, and rounds its weights."""

    name = "allow_tf32"

    def run(self, network: Network, log: Log) -> bool:
        """A second run finds nothing to do."""
        rounded: dict[Tensor, Tensor] = {}
        changed = False
        for layer in network.layers:
            kind = layer.kind
            if not isinstance(kind, Convolution | Deconvolution | Matmul) or kind.tf32:
                continue
            if all(tensor.dtype is DType.FLOAT32 for tensor in layer.main_inputs):
                network.set_kind(layer, dataclasses.replace(kind, tf32=True))
                main = (_rounded(network, tensor, rounded) for tensor in layer.main_inputs)
                network.set_inputs(layer, (*main, *layer.inputs[len(layer.main_inputs) :]))
                changed = True
        for tensor in rounded:
            if not network.is_used(tensor):
                network.remove_constant(tensor)
        return changed


def _rounded(network: Network, tensor: Tensor, known: dict[Tensor, Tensor]) -> Tensor:
    """A constant as TF32 has it, made once; anything else as it is."""
    if tensor.data is None:
        return tensor
    if tensor not in known:
        known[tensor] = network.add_constant(tensor.name, round_to_tf32(tensor.data))
    return known[tensor]


def round_to_tf32(array: Array) -> Array:
    """float32 values rounded to 10 bits of mantissa, ties to even.

    Infinities and NaN stay; the largest numbers are cut, as above them there is only infinity.
    """
    bits = np.ascontiguousarray(array).view(np.uint32)
    nearest = (bits + (0xFFF + ((bits >> 13) & 1)).astype(np.uint32)) & np.uint32(0xFFFFE000)
    is_kept = np.isfinite(nearest.view(np.float32))
    result: Array = np.where(is_kept, nearest, bits & np.uint32(0xFFFFE000))
    return np.where(np.isfinite(array), result.astype(np.uint32).view(np.float32), array)
