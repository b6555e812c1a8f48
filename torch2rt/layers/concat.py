"""Concat: tensors one after another along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import rule
from torch2rt.layers.shapes import normalize_axis, promote
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Concat(LayerKind):
    """y holds x0, x1, ... one after another along ``axis``; the other axes are equal.

    Source: torch.cat; ONNX Concat.
    """

    name: ClassVar[str] = "concat"
    axis: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The sizes along the axis added up."""
        first = inputs[0]
        total: Dim = 0
        for x in inputs:
            if x.rank != first.rank or not 0 <= self.axis < x.rank:
                raise ValueError(f"concat of {first} and {x} along axis {self.axis}")
            for axis, (left, right) in enumerate(zip(first.shape, x.shape, strict=True)):
                is_known = isinstance(left, int) and isinstance(right, int)
                if axis != self.axis and is_known and left != right:
                    raise ValueError(f"concat of {first} and {x} differs in axis {axis}")
            total = total + x.shape[self.axis]
        shape = (*first.shape[: self.axis], total, *first.shape[self.axis + 1 :])
        return (TensorType(shape, promote(*inputs)),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.cat."""
        return (torch.cat(list(inputs), self.axis),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


def concat(lowering: Lowering, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Add the layer, every part as the dtype of the node; a single part is the result."""
    dtype = lowering.output_type.dtype
    parts = [lowering.cast(tensor, dtype) for tensor in tensors]
    return parts[0] if len(parts) == 1 else lowering.add(Concat(axis), *parts)


@rule("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def lower_cat(lowering: Lowering, tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Concat; empty vectors among tensors of a higher rank count for nothing, as in torch."""
    rank = lowering.output_type.rank
    parts = [tensor for tensor in tensors if tensor.shape != (0,) or rank == 1]
    return concat(lowering, parts, normalize_axis(dim, rank))


@rule("aten.stack.default")
def lower_stack(lowering: Lowering, tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Concat along a new axis."""
    axis = normalize_axis(dim, tensors[0].rank + 1)
    parts = [
        lowering.reshape(tensor, (*tensor.shape[:axis], 1, *tensor.shape[axis:]))
        for tensor in tensors
    ]
    return concat(lowering, parts, axis)


@rule("aten.hstack.default")
def lower_hstack(lowering: Lowering, tensors: Sequence[Tensor]) -> Tensor:
    """Concat along axis 1, of vectors along axis 0."""
    parts = [_with_rank(lowering, tensor, 1) for tensor in tensors]
    return concat(lowering, parts, 0 if parts[0].rank == 1 else 1)


@rule("aten.vstack.default", "aten.row_stack.default")
def lower_vstack(lowering: Lowering, tensors: Sequence[Tensor]) -> Tensor:
    """Concat along axis 0; vectors are rows."""
    return concat(lowering, [_with_rank(lowering, tensor, 2) for tensor in tensors], 0)


@rule("aten.column_stack.default")
def lower_column_stack(lowering: Lowering, tensors: Sequence[Tensor]) -> Tensor:
    """Concat along axis 1; vectors are columns."""
    parts = [
        tensor if tensor.rank >= 2 else lowering.reshape(tensor, (-1, 1)) for tensor in tensors
    ]
    return concat(lowering, parts, 1)


def _with_rank(lowering: Lowering, x: Tensor, rank: int) -> Tensor:
    return lowering.reshape(x, (1,) * (rank - x.rank) + x.shape)
