"""Triangle: the lower or upper triangle of matrices, zeros elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import rule
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Triangle(LayerKind):
    """y[..., i, j] = x[..., i, j] where j - i <= diagonal (``upper``: >=), else 0.

    Source: torch.tril, torch.triu; ONNX Trilu.
    """

    name: ClassVar[str] = "triangle"
    upper: bool
    diagonal: int = 0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        (x,) = inputs
        if x.rank < 2:
            raise ValueError(f"{x} has no triangle")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.triu or torch.tril."""
        (x,) = inputs
        return (x.triu(self.diagonal) if self.upper else x.tril(self.diagonal),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


@rule("aten.tril.default")
def lower_tril(lowering: Lowering, input: Tensor, diagonal: int) -> Tensor:
    """On and below a diagonal."""
    return lowering.add(Triangle(upper=False, diagonal=diagonal), input)


@rule("aten.triu.default")
def lower_triu(lowering: Lowering, input: Tensor, diagonal: int) -> Tensor:
    """On and above a diagonal."""
    return lowering.add(Triangle(upper=True, diagonal=diagonal), input)
