"""Lower precision: float32 layers that tolerate it compute in bfloat16.

Before: conv(x: f32, w: f32) -> y: f32 -> output
After:  conv(to_bfloat16(x), w: bf16) -> y: bf16 -> to_float32 -> output

Network inputs and outputs keep their dtypes. Weights of convolutions, matmuls and embeddings are
stored in the low precision; small constants (biases, scales, norm parameters) stay float32, since
epilogues are computed in float32. Kinds not listed keep float32, between casts.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from torch2rt import expression as ex
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor, TensorType
from torch2rt.passes.base import Log, Pass

# Kinds that keep their meaning to rounding when their float operands are of low precision.
TOLERANT = frozenset({
    "adaptive_pool", "attention", "concat", "convolution", "deconvolution", "expand", "group_norm",
    "layer_norm", "matmul", "pad", "pointwise", "pool", "reduce", "reshape", "resize", "slice",
    "softmax", "take", "transpose",
})
# Kinds that take float32 constants beside operands of low precision: those are small, and kept.
TAKES_WIDE = frozenset({"group_norm", "layer_norm", "pointwise"})


class LowerPrecision(Pass):
    """Gives tolerant layers low-precision operands and results."""

    name = "lower_precision"

    def __init__(self, dtype: DType = DType.BFLOAT16) -> None:
        self.dtype = dtype

    def run(self, network: Network, log: Log) -> bool:
        """Insert casts at the borders; a second run finds nothing to do."""
        casts: dict[tuple[Tensor, DType], Tensor] = {}
        wide = [n for n, tensor in network.outputs.items() if tensor.dtype is DType.FLOAT32]
        changed = False
        for layer in network.layers:
            if _is_cast(layer):
                continue
            is_low = layer.kind.name in TOLERANT and self._has_float_result(layer)
            wanted = self.dtype if is_low else DType.FLOAT32
            inputs = tuple(
                self._operand(network, layer, index, wanted, casts)
                for index in range(len(layer.inputs))
            )
            if inputs != layer.inputs:
                network.set_inputs(layer, inputs)
                changed = True
            if is_low:
                changed |= self._lower_results(network, layer)
        return self._restore_outputs(network, wide, casts) or changed

    @staticmethod
    def _has_float_result(layer: Layer) -> bool:
        return all(output.dtype.is_float for output in layer.outputs) and any(
            tensor.dtype.is_float for tensor in layer.inputs
        )

    def _operand(
        self, network: Network, layer: Layer, index: int, wanted: DType,
        casts: dict[tuple[Tensor, DType], Tensor],
    ) -> Tensor:
        tensor = layer.inputs[index]
        if tensor.dtype not in (DType.FLOAT32, self.dtype) or tensor.dtype == wanted:
            return tensor
        if tensor.is_constant and wanted is self.dtype:
            is_epilogue = index >= len(layer.main_inputs)
            if is_epilogue or layer.kind.name in TAKES_WIDE:
                return tensor
        return self._cast(network, tensor, wanted, casts, layer)

    def _cast(
        self, network: Network, tensor: Tensor, dtype: DType,
        casts: dict[tuple[Tensor, DType], Tensor], before: Layer | None,
    ) -> Tensor:
        if (tensor, dtype) in casts:
            return casts[tensor, dtype]
        if tensor.data is not None:
            data = convert_float(tensor.data, tensor.dtype, dtype)
            result = network.add_constant(tensor.name, data, dtype)
        else:
            producer = tensor.producer
            kind = Pointwise(ex.cast(dtype, ex.Input(0)), dtype)
            result = network.add(
                kind, [tensor], before=before, name=f"{tensor.name}.{dtype.value}",
                origins=producer.origins if producer is not None else (),
            ).output
        casts[tensor, dtype] = result
        return result

    def _lower_results(self, network: Network, layer: Layer) -> bool:
        changed = False
        for field in dataclasses.fields(layer.kind):
            if getattr(layer.kind, field.name) is DType.FLOAT32:
                kind = dataclasses.replace(layer.kind, **{field.name: self.dtype})
                network.set_kind(layer, kind)
                changed = True
        for output in layer.outputs:
            if output.dtype is DType.FLOAT32:
                network.set_type(output, TensorType(output.shape, self.dtype))
                changed = True
        return changed

    def _restore_outputs(
        self, network: Network, wide: list[str], casts: dict[tuple[Tensor, DType], Tensor]
    ) -> bool:
        changed = False
        for name in wide:
            tensor = network.outputs[name]
            if tensor.dtype is self.dtype:
                network.outputs[name] = self._cast(network, tensor, DType.FLOAT32, casts, None)
                changed = True
        return changed


def _is_cast(layer: Layer) -> bool:
    return isinstance(layer.kind, Pointwise) and (
        layer.kind.expression.text in ("to_bfloat16(i0)", "to_float16(i0)", "to_float32(i0)")
    )


def convert_float(data: Array, source: DType, target: DType) -> Array:
    """A float constant as another float dtype, rounded to nearest even; bfloat16 as bits."""
    if source is target:
        return data
    wide = (data.astype(np.uint32) << 16).view(np.float32) if source is DType.BFLOAT16 else data
    if target is not DType.BFLOAT16:
        return wide.astype(target.numpy)
    bits = np.ascontiguousarray(wide, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    is_nan = np.isnan(wide)
    return np.where(is_nan, np.uint32(0x7FC0), rounded).astype(np.uint16).reshape(data.shape)
