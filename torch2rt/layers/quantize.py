"""Quantization of a float tensor to few bits, and the rules of torch's quantizing ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from torch2rt import expression as ex
from torch2rt.layers.dequantize import Dequantize, per_channel, per_tensor
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import broadcast
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering

_STORED = (DType.INT8, DType.UINT8, DType.INT16, DType.INT32, DType.FLOAT8_E4M3)


@dataclass(frozen=True)
class Quantize(LayerKind):
    """q = clamp(round(x * (1 / scale)) + zero_point, low, high), halves rounded to even.

    Inputs: x, a float; scale, float32; zero_point, int32, which may be left out and is 0 then.
    Scale and zero point broadcast to x: one number for the tensor, or one per channel. Output:
    shape of x, of ``dtype``. float8 is not rounded to integers: it rounds by itself.
    Source: torch.fake_quantize_per_tensor_affine; ONNX QuantizeLinear.
    """

    name: ClassVar[str] = "quantize"
    dtype: DType
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.dtype not in _STORED or self.low >= self.high:
            raise ValueError(f"no range of {self.dtype.value}: {self.low}..{self.high}")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Shape of x, attribute dtype."""
        x = inputs[0]
        if broadcast(*(type.shape for type in inputs)) != x.shape:
            raise ValueError(f"scale or zero point exceed {x}")
        return (TensorType(x.shape, self.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Through the expression."""
        return (ex.evaluate_torch(self.expression(len(inputs) > 2), inputs),)

    def expression(self, has_zero_point: bool) -> ex.Expression:
        """The same as an expression: i0 is x, i1 the scale, i2 the zero point."""
        value = ex.apply("mul", ex.Input(0), ex.apply("reciprocal", ex.Input(1)))
        if not self.dtype.is_float:
            value = ex.apply("round", value)
        if has_zero_point:
            value = ex.apply("add", value, ex.cast(DType.FLOAT32, ex.Input(2)))
        return ex.cast(self.dtype, ex.apply("clamp", value, float(self.low), float(self.high)))


@rule("quantized_decomposed.quantize_per_tensor.default")
def lower_quantize_per_tensor(
    lowering: Lowering, input: Tensor, scale: float, zero_point: int, quant_min: int,
    quant_max: int, dtype: DType,
) -> Tensor:
    """One scale for the tensor, as a number."""
    parameters = per_tensor(lowering, scale, zero_point)
    return lowering.add(Quantize(dtype, quant_min, quant_max), input, *parameters)


@rule("quantized_decomposed.quantize_per_channel.default")
def lower_quantize_per_channel(
    lowering: Lowering, input: Tensor, scales: Tensor, zero_points: Tensor, axis: int,
    quant_min: int, quant_max: int, dtype: DType,
) -> Tensor:
    """One scale per index of an axis."""
    parameters = per_channel(lowering, input, scales, zero_points, axis)
    return lowering.add(Quantize(dtype, quant_min, quant_max), input, *parameters)


@rule("aten.fake_quantize_per_tensor_affine.default")
def lower_fake_quantize_per_tensor(
    lowering: Lowering, input: Tensor, scale: float, zero_point: int, quant_min: int,
    quant_max: int,
) -> Tensor:
    """What QAT inserts for activations: quantize and dequantize."""
    parameters = per_tensor(lowering, scale, zero_point)
    return _fake_quantize(lowering, input, parameters, quant_min, quant_max)


@rule("aten.fake_quantize_per_tensor_affine.tensor_qparams")
def lower_fake_quantize_by_tensors(
    lowering: Lowering, input: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int,
    quant_max: int,
) -> Tensor:
    """The same, scale and zero point being tensors of one element."""
    shape = (1,) * input.rank
    parameters = [
        lowering.cast(lowering.reshape(scale, shape), DType.FLOAT32),
        lowering.cast(lowering.reshape(zero_point, shape), DType.INT32),
    ]
    return _fake_quantize(lowering, input, parameters, quant_min, quant_max)


@rule("aten.fake_quantize_per_channel_affine.default")
def lower_fake_quantize_per_channel(
    lowering: Lowering, input: Tensor, scale: Tensor, zero_point: Tensor, axis: int,
    quant_min: int, quant_max: int,
) -> Tensor:
    """What QAT inserts for weights."""
    parameters = per_channel(lowering, input, scale, zero_point, axis)
    return _fake_quantize(lowering, input, parameters, quant_min, quant_max)


def _fake_quantize(
    lowering: Lowering, x: Tensor, parameters: Sequence[Tensor], low: int, high: int
) -> Tensor:
    stored = lowering.add(Quantize(_dtype_for(low, high), low, high), x, *parameters)
    return lowering.add(Dequantize(x.dtype), stored, *parameters)


def _dtype_for(low: int, high: int) -> DType:
    """The smallest integer dtype that holds a range."""
    for dtype in (DType.UINT8, DType.INT8, DType.INT16, DType.INT32):
        limits = np.iinfo(dtype.numpy)
        if limits.min <= low and high <= limits.max:
            return dtype
    raise Unsupported(f"no integer dtype holds {low}..{high}")
