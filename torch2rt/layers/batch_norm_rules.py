"""Batch normalisation in evaluation: a scale and a shift per channel, as a pointwise layer.

    y = (x - mean) / sqrt(var + eps) * weight + bias = x * scale + shift

with scale = weight / sqrt(var + eps) and shift = bias - mean * scale, computed in float64 once.
Folding it into a convolution is then folding a multiplication and an addition by constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from torch2rt import expression as ex
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.network.dtype import Array, DType
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering

_X, _SCALE, _SHIFT = ex.Input(0), ex.Input(1), ex.Input(2)


@rule("aten.batch_norm.default")
def lower_batch_norm(
    lowering: Lowering, input: Tensor, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, training: bool, momentum: float,
    eps: float, cudnn_enabled: bool,
) -> Tensor:
    """``x * scale + shift``."""
    return normalize_with_statistics(
        lowering, input, weight, bias, running_mean, running_var, eps, training
    )


@rule("aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default",
      "aten.cudnn_batch_norm.default")
def lower_native_batch_norm(
    lowering: Lowering, input: Tensor, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, training: bool = False,
    momentum: float = 0.0, eps: float = 0.0, exponential_average_factor: float = 0.0,
    epsilon: float = 0.0,
) -> list[Tensor]:
    """The same; the saved statistics are for training alone."""
    if any(lowering.is_result_used(index) for index in (1, 2, 3)):
        raise Unsupported("the saved statistics of a batch norm are read")
    return [
        normalize_with_statistics(
            lowering, input, weight, bias, running_mean, running_var, eps or epsilon, training
        )
    ]


def normalize_with_statistics(
    lowering: Lowering, x: Tensor, weight: Tensor | None, bias: Tensor | None,
    mean: Tensor | None, variance: Tensor | None, eps: float, is_training: bool,
) -> Tensor:
    """Add ``x * scale + shift`` for constants per channel (axis 1 of x)."""
    if is_training or mean is None or variance is None:
        raise Unsupported("batch norm over the statistics of the batch (training mode)")
    factor = 1 / np.sqrt(_values(variance) + eps)
    if weight is not None:
        factor = factor * _values(weight)
    offset = -_values(mean) * factor
    if bias is not None:
        offset = offset + _values(bias)
    dtype = x.dtype if x.dtype is DType.FLOAT64 else DType.FLOAT32
    shape = (-1,) + (1,) * (x.rank - 2)
    terms = [
        lowering.network.add_constant(
            f"{mean.name}.{name}", values.reshape(shape).astype(dtype.numpy), dtype
        )
        for name, values in (("scale", factor), ("shift", offset))
    ]
    expression = ex.apply("add", ex.apply("mul", _X, _SCALE), _SHIFT)
    return lowering.expression(expression, x, *terms, dtype=x.dtype)


def _values(constant: Tensor) -> Array:
    """A constant in float64; bfloat16 is stored as the upper half of float32."""
    if constant.data is None:
        raise Unsupported("batch norm whose statistics or weights are no constants")
    if constant.dtype is DType.BFLOAT16:
        return (constant.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return constant.data.astype(np.float64)
