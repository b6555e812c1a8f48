"""Normalisation over the last axes: layer norm and RMS norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class LayerNorm(LayerKind):
    """y = (x - m) / sqrt(mean((x - m)^2) + eps) * weight + bias over the last ``axis_count`` axes.

    m is their mean if ``is_centered``, else 0 (RMS norm). Inputs: x [*batch, *sizes], then weight
    [*sizes] if ``has_weight`` and bias [*sizes] if ``has_bias``. Output: shape and dtype of x.
    Source: torch.nn.functional.layer_norm, rms_norm; ONNX LayerNormalization.
    """

    name: ClassVar[str] = "layer_norm"
    axis_count: int
    eps: float
    is_centered: bool = True
    has_weight: bool = False
    has_bias: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        x, *affine = inputs
        if not 1 <= self.axis_count <= x.rank:
            raise ValueError(f"layer norm over {self.axis_count} axes of {x}")
        if len(affine) != self.has_weight + self.has_bias:
            raise ValueError(f"layer norm with {len(affine)} inputs besides {x}")
        sizes = x.shape[-self.axis_count :]
        for term in affine:
            if term.shape != sizes:
                raise ValueError(f"layer norm of {x} needs weights of shape {sizes}, not {term}")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The functions of torch.nn.functional; the bias of an RMS norm apart."""
        x, *affine = inputs
        sizes = x.shape[-self.axis_count :]
        weight = affine[0] if self.has_weight else None
        bias = affine[-1] if self.has_bias else None
        if self.is_centered:
            return (torch.nn.functional.layer_norm(x, sizes, weight, bias, self.eps),)
        y = torch.nn.functional.rms_norm(x, sizes, weight, self.eps)
        return (y if bias is None else y + bias,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Eight per element: two passes of statistics, scale and shift."""
        return 8 * int(inputs[0].element_count)


@rule("aten.layer_norm.default")
def lower_layer_norm(
    lowering: Lowering, input: Tensor, normalized_shape: Sequence[Dim], weight: Tensor | None,
    bias: Tensor | None, eps: float, cudnn_enable: bool,
) -> Tensor:
    """Layer norm with what it has of weight and bias."""
    return _normalize(lowering, input, len(normalized_shape), weight, bias, eps, True)


@rule("aten.native_layer_norm.default")
def lower_native_layer_norm(
    lowering: Lowering, input: Tensor, normalized_shape: Sequence[Dim], weight: Tensor | None,
    bias: Tensor | None, eps: float,
) -> list[Tensor]:
    """The same; mean and deviation are for training alone."""
    if lowering.is_result_used(1) or lowering.is_result_used(2):
        raise Unsupported("the statistics of a layer norm are read")
    return [_normalize(lowering, input, len(normalized_shape), weight, bias, eps, True)]


@rule("aten.rms_norm.default")
def lower_rms_norm(
    lowering: Lowering, input: Tensor, normalized_shape: Sequence[Dim], weight: Tensor | None,
    eps: float | None,
) -> Tensor:
    """RMS norm; without eps it is the spacing at 1 of the dtype that torch computes in."""
    if eps is None:
        eps = 2.0**-52 if input.dtype is DType.FLOAT64 else 2.0**-23
    return _normalize(lowering, input, len(normalized_shape), weight, None, eps, False)


def _normalize(
    lowering: Lowering, x: Tensor, axis_count: int, weight: Tensor | None, bias: Tensor | None,
    eps: float, is_centered: bool,
) -> Tensor:
    kind = LayerNorm(axis_count, eps, is_centered, weight is not None, bias is not None)
    return lowering.add(kind, x, *(term for term in (weight, bias) if term is not None))
