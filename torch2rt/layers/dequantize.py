"""What a quantized tensor stands for, and the rules of torch's dequantizing ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from torch2rt import expression as ex
from torch2rt.layers.rules import rule
from torch2rt.layers.shapes import broadcast
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Dequantize(LayerKind):
    """x = (q - zero_point) * scale.

    Inputs: q, of few bits; scale, float32; zero_point, int32, which may be left out and is 0
    then. Scale and zero point broadcast to q. Output: shape of q, of ``dtype``, a float.
    Source: torch.ao.quantization; ONNX DequantizeLinear.
    """

    name: ClassVar[str] = "dequantize"
    dtype: DType = DType.FLOAT32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Shape of q, attribute dtype."""
        q = inputs[0]
        if broadcast(*(type.shape for type in inputs)) != q.shape:
            raise ValueError(f"scale or zero point exceed {q}")
        return (TensorType(q.shape, self.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Through the expression."""
        return (ex.evaluate_torch(self.expression(len(inputs) > 2), inputs),)

    def expression(self, has_zero_point: bool) -> ex.Expression:
        """The same as an expression: i0 is q, i1 the scale, i2 the zero point."""
        value = ex.cast(DType.FLOAT32, ex.Input(0))
        if has_zero_point:
            value = ex.apply("sub", value, ex.cast(DType.FLOAT32, ex.Input(2)))
        value = ex.apply("mul", value, ex.Input(1))
        return value if self.dtype is DType.FLOAT32 else ex.cast(self.dtype, value)


@rule("quantized_decomposed.dequantize_per_tensor.default")
def lower_dequantize_per_tensor(
    lowering: Lowering, input: Tensor, scale: float, zero_point: int, quant_min: int,
    quant_max: int, dtype: DType, out_dtype: DType | None = None,
) -> Tensor:
    """One scale for the tensor, as a number."""
    parameters = per_tensor(lowering, scale, zero_point)
    return lowering.add(Dequantize(out_dtype or DType.FLOAT32), input, *parameters)


@rule("quantized_decomposed.dequantize_per_channel.default")
def lower_dequantize_per_channel(
    lowering: Lowering, input: Tensor, scales: Tensor, zero_points: Tensor | None, axis: int,
    quant_min: int, quant_max: int, dtype: DType, out_dtype: DType | None = None,
) -> Tensor:
    """One scale per index of an axis."""
    parameters = per_channel(lowering, input, scales, zero_points, axis)
    return lowering.add(Dequantize(out_dtype or DType.FLOAT32), input, *parameters)


def per_tensor(lowering: Lowering, scale: float, zero_point: int) -> list[Tensor]:
    """The inputs of a quantization beside the tensor: scale, and zero point unless it is 0."""
    found = [lowering.network.add_constant("scale", np.array(scale, np.float32))]
    if zero_point:
        found.append(lowering.network.add_constant("zero_point", np.array(zero_point, np.int32)))
    return found


def per_channel(
    lowering: Lowering, x: Tensor, scales: Tensor, zero_points: Tensor | None, axis: int
) -> list[Tensor]:
    """The same for scales and zero points [c] of an axis, shaped to broadcast to x."""
    shape = tuple(-1 if index == axis % x.rank else 1 for index in range(x.rank))
    found = [lowering.cast(lowering.reshape(scales, shape), DType.FLOAT32)]
    if zero_points is not None:
        found.append(lowering.cast(lowering.reshape(zero_points, shape), DType.INT32))
    return found
