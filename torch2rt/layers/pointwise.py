"""Pointwise layer: an expression over broadcast operands, and the rules of pointwise ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt import expression as ex
from torch2rt.layers.shapes import broadcast
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor


@dataclass(frozen=True)
class Pointwise(LayerKind):
    """y = expression(x0, x1, ...), element by element.

    Inputs: any number of tensors whose shapes broadcast. Output: the broadcast shape, of
    ``dtype``. Low-precision floats are computed in float32 and rounded once.
    Source: PyTorch's broadcasting semantics.
    """

    name: ClassVar[str] = "pointwise"
    expression: ex.Expression
    dtype: DType

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Broadcast shape, attribute dtype."""
        if ex.arity(self.expression) > len(inputs):
            raise ValueError(f"{self.expression.text} needs more than {len(inputs)} inputs")
        return (TensorType(broadcast(*(type.shape for type in inputs)), self.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Through torch's own functions."""
        value = ex.evaluate_torch(self.expression, inputs)
        shape = [int(dim) for dim in broadcast(*(tuple(tensor.shape) for tensor in inputs))]
        device = inputs[0].device if inputs else None
        return (value.to(device).expand(shape) if list(value.shape) != shape else value,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """One operation per node of the expression and element."""
        operations = sum(isinstance(node, ex.Apply) for node in ex.walk(self.expression))
        return operations * int(outputs[0].element_count)
