"""Wider precision: what a model computes in 16-bit floats is computed in float32.

Before: x: f16 -> conv(x: f16, w: f16) -> y: f16 -> output
After:  to_float32(x) -> conv(x: f32, w: f32) -> y: f32 -> to_float16 -> output

Calibration and the insertion of 8 bits start from float32 tensors; what stays float is lowered
again afterwards. Network inputs and outputs keep their dtypes. Kinds that do not take float32 for
sure (fallbacks, plugins, random numbers) keep theirs, between casts.
"""

from __future__ import annotations

import dataclasses

from torch2rt import expression as ex
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType
from torch2rt.passes.base import Log, Pass
from torch2rt.passes.lower_precision import TOLERANT, convert_float, is_cast

_HALVES = (DType.FLOAT16, DType.BFLOAT16)


class WidenHalves(Pass):
    """Gives tolerant layers of 16-bit floats float32 operands and results."""

    name = "widen_halves"

    def run(self, network: Network, log: Log) -> bool:
        """Insert casts at the borders; a second run finds nothing to do."""
        casts: dict[tuple[Tensor, DType], Tensor] = {}
        halves = {name: tensor.dtype for name, tensor in network.outputs.items()}
        widened: dict[Tensor, DType] = {}
        changed = False
        for layer in network.layers:
            if is_cast(layer):
                continue
            is_wide = layer.kind.name in TOLERANT
            inputs = tuple(
                self._wide(network, tensor, casts, layer) if is_wide
                else self._half(network, tensor, widened, casts, layer)
                for tensor in layer.inputs
            )
            if inputs != layer.inputs:
                network.set_inputs(layer, inputs)
                changed = True
            if is_wide:
                changed |= _widen_results(network, layer, widened)
        for name, tensor in network.outputs.items():
            if tensor in widened and halves[name] in _HALVES:
                network.outputs[name] = self._cast(network, tensor, halves[name], casts, None)
        return changed

    def _wide(
        self, network: Network, tensor: Tensor, casts: dict[tuple[Tensor, DType], Tensor],
        before: Layer,
    ) -> Tensor:
        if tensor.dtype not in _HALVES:
            return tensor
        return self._cast(network, tensor, DType.FLOAT32, casts, before)

    def _half(
        self, network: Network, tensor: Tensor, widened: dict[Tensor, DType],
        casts: dict[tuple[Tensor, DType], Tensor], before: Layer,
    ) -> Tensor:
        if tensor not in widened:
            return tensor
        return self._cast(network, tensor, widened[tensor], casts, before)

    def _cast(
        self, network: Network, tensor: Tensor, dtype: DType,
        casts: dict[tuple[Tensor, DType], Tensor], before: Layer | None,
    ) -> Tensor:
        if (tensor, dtype) not in casts:
            if tensor.data is not None:
                data = convert_float(tensor.data, tensor.dtype, dtype)
                made = network.add_constant(tensor.name, data, dtype)
            else:
                origins = tensor.producer.origins if tensor.producer is not None else ()
                made = network.add(
                    Pointwise(ex.cast(dtype, ex.Input(0)), dtype), [tensor], before=before,
                    name=f"{tensor.name}.{dtype.value}", origins=origins,
                ).output
            casts[tensor, dtype] = made
        return casts[tensor, dtype]


def _widen_results(network: Network, layer: Layer, widened: dict[Tensor, DType]) -> bool:
    """Float32 instead of 16 bits in a layer's attributes and results."""
    changed = False
    for field in dataclasses.fields(layer.kind):
        if getattr(layer.kind, field.name) in _HALVES:
            network.set_kind(
                layer, dataclasses.replace(layer.kind, **{field.name: DType.FLOAT32})
            )
            changed = True
    for output in layer.outputs:
        if output.dtype in _HALVES:
            widened[output] = output.dtype
            network.set_type(output, TensorType(output.shape, DType.FLOAT32))
            changed = True
    return changed
