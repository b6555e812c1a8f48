"""Normalisation over groups of channels: group norm, and instance norm as one channel a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.batch_norm_rules import normalize_with_statistics
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class GroupNorm(LayerKind):
    """y = (x - mean) / sqrt(var + eps) * weight[c] + bias[c], over each sample's channel groups.

    Inputs: x [n, c, *spatial], then weight [c] if ``has_weight`` and bias [c] if ``has_bias``.
    Mean and (biased) variance are taken over c/groups channels and all of spatial.
    Output: shape and dtype of x. Source: torch.nn.functional.group_norm; ONNX GroupNormalization.
    """

    name: ClassVar[str] = "group_norm"
    groups: int
    eps: float
    has_weight: bool = False
    has_bias: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        x, *affine = inputs
        if x.rank < 2:
            raise ValueError(f"group norm cannot take {x}: it has no channel axis")
        if len(affine) != self.has_weight + self.has_bias:
            raise ValueError(f"group norm with {len(affine)} inputs besides {x}")
        channels = x.shape[1]
        if isinstance(channels, int) and channels % self.groups:
            raise ValueError(f"group norm of {x}: {self.groups} groups do not divide the channels")
        for term in affine:
            if term.shape != (channels,):
                raise ValueError(f"group norm of {x} needs weights [{channels}], not {term}")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The group norm of torch."""
        x, *affine = inputs
        weight = affine[0] if self.has_weight else None
        bias = affine[-1] if self.has_bias else None
        return (torch.group_norm(x, self.groups, weight, bias, self.eps),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Eight per element: two passes of statistics, scale and shift."""
        return 8 * int(inputs[0].element_count)


@rule("aten.group_norm.default")
def lower_group_norm(
    lowering: Lowering, input: Tensor, num_groups: int, weight: Tensor | None,
    bias: Tensor | None, eps: float, cudnn_enabled: bool,
) -> Tensor:
    """Group norm with what it has of weight and bias."""
    return _normalize(lowering, input, num_groups, weight, bias, eps)


@rule("aten.native_group_norm.default")
def lower_native_group_norm(
    lowering: Lowering, input: Tensor, weight: Tensor | None, bias: Tensor | None, N: Dim, C: Dim,
    HxW: Dim, group: int, eps: float,
) -> list[Tensor]:
    """The same; mean and deviation are for training alone."""
    if lowering.is_result_used(1) or lowering.is_result_used(2):
        raise Unsupported("the statistics of a group norm are read")
    return [_normalize(lowering, input, group, weight, bias, eps)]


@rule("aten.instance_norm.default")
def lower_instance_norm(
    lowering: Lowering, input: Tensor, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, use_input_stats: bool,
    momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:
    """One group per channel, or a batch norm where it has statistics of its own."""
    if not use_input_stats:
        return normalize_with_statistics(
            lowering, input, weight, bias, running_mean, running_var, eps, False
        )
    channels = input.shape[1]
    if not isinstance(channels, int):
        raise Unsupported(f"instance norm over a symbolic number of channels {channels}")
    return _normalize(lowering, input, channels, weight, bias, eps)


def _normalize(
    lowering: Lowering, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None,
    eps: float,
) -> Tensor:
    kind = GroupNorm(groups, eps, weight is not None, bias is not None)
    return lowering.add(kind, x, *(term for term in (weight, bias) if term is not None))
