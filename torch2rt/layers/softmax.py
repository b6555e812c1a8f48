"""Softmax and its logarithm over one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
class Softmax(LayerKind):
    """y = exp(x - m) / sum(exp(x - m)) over ``axis``, m the largest x there; its log if ``is_log``.

    Input: x, a float of any rank but 0; ``axis`` is not negative. Output: type of x.
    Source: torch.softmax, torch.log_softmax; ONNX Softmax, LogSoftmax.
    """

    name: ClassVar[str] = "softmax"
    axis: int
    is_log: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        (x,) = inputs
        if not 0 <= self.axis < x.rank or not x.dtype.is_float:
            raise ValueError(f"softmax over axis {self.axis} of {x}")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The function of torch."""
        function = torch.log_softmax if self.is_log else torch.softmax
        return (function(inputs[0], self.axis),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Five per element: maximum, difference, exponential, sum, quotient."""
        return 5 * int(inputs[0].element_count)


@rule("aten.softmax.int", "aten._softmax.default")
def lower_softmax(
    lowering: Lowering, input: Tensor, dim: int, dtype: DType | None = None,
    half_to_float: bool = False,
) -> Tensor:
    """Softmax in the node's dtype."""
    return _softmax(lowering, input, dim, is_log=False)


@rule("aten.log_softmax.int", "aten._log_softmax.default")
def lower_log_softmax(
    lowering: Lowering, input: Tensor, dim: int, dtype: DType | None = None,
    half_to_float: bool = False,
) -> Tensor:
    """Log-softmax in the node's dtype."""
    return _softmax(lowering, input, dim, is_log=True)


def _softmax(lowering: Lowering, x: Tensor, dim: int, is_log: bool) -> Tensor:
    if x.rank == 0:
        raise Unsupported("softmax of a scalar")
    x = lowering.cast(x, lowering.output_type.dtype)
    return lowering.add(Softmax(normalize_axis(dim, x.rank), is_log), x)
