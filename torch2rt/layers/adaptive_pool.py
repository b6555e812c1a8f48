"""Adaptive pooling: windows that divide an axis into a given number of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.pool import Pool, pool_with_batch
from torch2rt.layers.reduce import reduce
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import expand_values
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class AdaptivePool(LayerKind):
    """y[n,c,p] = max or mean of x[n,c, floor(p*size/out) : ceil((p+1)*size/out)].

    Input: x [n, c, *spatial]. Output: [n, c, *size], where ``size`` may hold symbolic dims.
    Rules produce it only where no reduction or plain pooling does the same.
    Source: torch.nn.functional.adaptive_avg_pool2d.
    """

    name: ClassVar[str] = "adaptive_pool"
    mode: str
    size: Shape

    def __post_init__(self) -> None:
        if self.mode not in ("max", "mean"):
            raise ValueError(f"unknown pooling {self.mode!r}, expected max or mean")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """[n, c, *size]."""
        (x,) = inputs
        if x.rank != len(self.size) + 2:
            raise ValueError(f"pooling to {list(self.size)} cannot take {x}")
        return (TensorType((*x.shape[:2], *self.size), x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The adaptive pooling of torch."""
        name = {"max": "max", "mean": "avg"}[self.mode]
        function = getattr(torch.nn.functional, f"adaptive_{name}_pool{len(self.size)}d")
        return (function(inputs[0], self.size),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """One per input element, windows that overlap not counted twice."""
        return int(inputs[0].element_count)


@rule("aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default",
      "aten.adaptive_avg_pool3d.default", "aten._adaptive_avg_pool2d.default",
      "aten._adaptive_avg_pool3d.default")
def lower_adaptive_avg_pool(
    lowering: Lowering, input: Tensor, output_size: Sequence[Dim]
) -> Tensor:
    """Adaptive average pooling."""
    return _adaptive_pool(lowering, "mean", input, output_size)


@rule("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default",
      "aten.adaptive_max_pool3d.default")
def lower_adaptive_max_pool(
    lowering: Lowering, input: Tensor, output_size: Sequence[Dim]
) -> list[Tensor]:
    """Adaptive max pooling whose indices nobody reads."""
    if lowering.is_result_used(1):
        raise Unsupported("the indices of a max pooling are read")
    return [_adaptive_pool(lowering, "max", input, output_size)]


def _adaptive_pool(
    lowering: Lowering, mode: str, x: Tensor, output_size: Sequence[Dim]
) -> Tensor:
    """A reduction if every axis is kept or reduced to 1, a pooling if all divide."""
    spatial = next(count for count in (1, 2, 3) if f"pool{count}d" in lowering.origin.op)
    first = x.rank - spatial
    target = expand_values(output_size, spatial)  # type: ignore[arg-type]
    changed = [axis for axis in range(spatial) if target[axis] != x.shape[first + axis]]
    if not changed:
        return x
    if all(target[axis] == 1 for axis in changed):
        return reduce(lowering, mode, x, tuple(first + axis for axis in changed), keepdim=True)
    kernel = []
    for axis in range(spatial):
        size, parts = x.shape[first + axis], target[axis]
        if not isinstance(size, int) or not isinstance(parts, int) or size % parts:
            return pool_with_batch(lowering, AdaptivePool(mode, target), x, spatial)
        kernel.append(size // parts)
    zeros, ones = (0,) * spatial, (1,) * spatial
    kind = Pool(mode, tuple(kernel), tuple(kernel), zeros, zeros, ones)
    return pool_with_batch(lowering, kind, x, spatial)
