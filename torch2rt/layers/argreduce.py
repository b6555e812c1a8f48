"""Index of the largest or smallest value along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.reduce import reduce, reduced_shape
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class ArgReduce(LayerKind):
    """y = the index along ``axis`` of the max or min of x, the first of equal ones; int64.

    Input: x of any rank but 0; ``axis`` is not negative and stays with length 1 if ``keepdim``.
    A NaN counts as the extreme. Source: torch.argmax; ONNX ArgMax.
    """

    name: ClassVar[str] = "argreduce"
    mode: str
    axis: int
    keepdim: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"unknown reduction {self.mode!r}, expected max or min")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The shape of x without the axis, or with length 1 there, int64."""
        (x,) = inputs
        if not 0 <= self.axis < x.rank:
            raise ValueError(f"arg{self.mode} over axis {self.axis} of {x}")
        return (TensorType(reduced_shape(x.shape, (self.axis,), self.keepdim), DType.INT64),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The function of torch."""
        function = torch.argmax if self.mode == "max" else torch.argmin
        return (function(inputs[0], self.axis, self.keepdim),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """One per input element."""
        return int(inputs[0].element_count)


@rule("aten.argmax.default")
def lower_argmax(lowering: Lowering, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    """Index of the largest value, in the flat tensor without dim."""
    return _argreduce(lowering, "max", input, dim, keepdim)


@rule("aten.argmin.default")
def lower_argmin(lowering: Lowering, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    """Index of the smallest value, in the flat tensor without dim."""
    return _argreduce(lowering, "min", input, dim, keepdim)


@rule("aten.max.dim")
def lower_max_dim(lowering: Lowering, input: Tensor, dim: int, keepdim: bool) -> list[Tensor]:
    """Largest values and their indices, each only if it is read."""
    return _value_and_index(lowering, "max", input, dim, keepdim)


@rule("aten.min.dim")
def lower_min_dim(lowering: Lowering, input: Tensor, dim: int, keepdim: bool) -> list[Tensor]:
    """Smallest values and their indices."""
    return _value_and_index(lowering, "min", input, dim, keepdim)


def _argreduce(
    lowering: Lowering, mode: str, x: Tensor, dim: int | None, keepdim: bool
) -> Tensor:
    if x.rank == 0:
        raise Unsupported("the index of a scalar")
    if dim is not None:
        return lowering.add(ArgReduce(mode, normalize_axis(dim, x.rank), keepdim), x)
    index = lowering.add(ArgReduce(mode, 0), lowering.reshape(x, (-1,)))
    return lowering.reshape(index, (1,) * x.rank if keepdim else ())


def _value_and_index(
    lowering: Lowering, mode: str, x: Tensor, dim: int, keepdim: bool
) -> list[Tensor]:
    if x.rank == 0:
        raise Unsupported("the index of a scalar")
    axis = normalize_axis(dim, x.rank)
    value = reduce(lowering, mode, x, (axis,), keepdim)
    if not lowering.is_result_used(1):
        return [value]
    return [value, lowering.add(ArgReduce(mode, axis, keepdim), x)]
