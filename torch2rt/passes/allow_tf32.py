"""Allow TF32: float32 convolutions and products may round their operands to TF32.

Before: conv(x: f32, w: f32) -> y: f32
After:  conv(x: f32, w: f32) {"tf32": true} -> y: f32

TF32 keeps float32's exponent and 10 bits of its mantissa; tensor cores multiply it several times
as fast and still add in float32. Tensors between layers stay float32. It runs last: fusions
compare kinds and need not know of it.
"""

from __future__ import annotations

import dataclasses

from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.passes.base import Log, Pass


class AllowTf32(Pass):
    """Sets ``tf32`` on every layer that multiplies float32 operands."""

    name = "allow_tf32"

    def run(self, network: Network, log: Log) -> bool:
        """Change attributes only; a second run finds nothing to do."""
        changed = False
        for layer in network.layers:
            kind = layer.kind
            if not isinstance(kind, Convolution | Deconvolution | Matmul) or kind.tf32:
                continue
            if all(tensor.dtype is DType.FLOAT32 for tensor in layer.main_inputs):
                network.set_kind(layer, dataclasses.replace(kind, tf32=True))
                changed = True
        return changed
