"""Gather: elements chosen along one axis, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.expand import expand_to
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.layers.take import Take
from torch2rt.lazy_torch import torch
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Gather(LayerKind):
    """y[i, j, k] = x[i, index[i, j, k], k] for axis 1, and so on.

    Inputs: x, index of an integer dtype and the rank of x, no longer than x outside the axis.
    Output: the shape of the index. Source: torch.gather; ONNX GatherElements.
    """

    name: ClassVar[str] = "gather"
    axis: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The shape of the index, dtype of x."""
        x, index = inputs
        if x.rank != index.rank or not 0 <= self.axis < x.rank or not index.dtype.is_integer:
            raise ValueError(f"gather along axis {self.axis} of {x} with {index}")
        return (TensorType(index.shape, x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.gather."""
        x, index = inputs
        return (torch.gather(x, self.axis, index.long()),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


@rule("aten.gather.default")
def lower_gather(
    lowering: Lowering, input: Tensor, dim: int, index: Tensor, sparse_grad: bool
) -> Tensor:
    """Elements along an axis."""
    if input.rank == 0 or index.rank == 0:
        raise Unsupported("gather of a scalar")
    return lowering.add(Gather(normalize_axis(dim, input.rank)), input, index)


@rule("aten.take_along_dim.default")
def lower_take_along_dim(
    lowering: Lowering, input: Tensor, indices: Tensor, dim: int | None
) -> Tensor:
    """Gather where the other axes broadcast; without an axis, of the flattened tensor."""
    if dim is None:
        flat = lowering.reshape(input, (-1,))
        return lowering.add(Take(0), flat, lowering.reshape(indices, (-1,)))
    axis = normalize_axis(dim, input.rank)
    index = expand_to(lowering, indices, lowering.output_type.shape)
    wanted = list(index.shape)
    wanted[axis] = input.shape[axis]
    return lowering.add(Gather(axis), expand_to(lowering, input, tuple(wanted)), index)
