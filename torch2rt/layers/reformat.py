"""Reformat: the same values in another layout or dtype. Planned between layers, never captured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import TensorType
from torch2rt.network.torch_cast import to_dtype

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


@dataclass(frozen=True)
class Reformat(LayerKind):
    """y = x, stored as ``dtype``; layouts are the operands' own. Any shape."""

    name: ClassVar[str] = "reformat"
    dtype: DType

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The input's shape, the attribute's dtype."""
        return (TensorType(inputs[0].shape, self.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.Tensor.to."""
        return (to_dtype(inputs[0], self.dtype),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0
