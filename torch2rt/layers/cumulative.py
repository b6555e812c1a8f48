"""Running sums, products and log-sum-exps along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering

_MODES = ("sum", "prod", "logsumexp")


@dataclass(frozen=True)
class Cumulative(LayerKind):
    """y[i] = mode of x[0], ..., x[i] along ``axis``.

    Input: x of any rank but 0; ``axis`` is not negative. Output: type of x.
    Source: torch.cumsum, torch.cumprod, torch.logcumsumexp; ONNX CumSum.
    """

    name: ClassVar[str] = "cumulative"
    mode: str
    axis: int

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"unknown running {self.mode!r}, expected one of {_MODES}")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        (x,) = inputs
        if not 0 <= self.axis < x.rank:
            raise ValueError(f"running {self.mode} along axis {self.axis} of {x}")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The function of torch, in the dtype of x."""
        (x,) = inputs
        if self.mode == "logsumexp":
            return (torch.logcumsumexp(x, self.axis),)
        function = torch.cumsum if self.mode == "sum" else torch.cumprod
        return (function(x, self.axis, dtype=x.dtype),)


@rule("aten.cumsum.default")
def lower_cumsum(lowering: Lowering, input: Tensor, dim: int, dtype: DType | None) -> Tensor:
    """Running sum; integers in int64."""
    return _cumulative(lowering, "sum", input, dim)


@rule("aten.cumprod.default")
def lower_cumprod(lowering: Lowering, input: Tensor, dim: int, dtype: DType | None) -> Tensor:
    """Running product; integers in int64."""
    return _cumulative(lowering, "prod", input, dim)


@rule("aten.logcumsumexp.default")
def lower_logcumsumexp(lowering: Lowering, input: Tensor, dim: int) -> Tensor:
    """Running log-sum-exp."""
    return _cumulative(lowering, "logsumexp", input, dim)


def _cumulative(lowering: Lowering, mode: str, x: Tensor, dim: int) -> Tensor:
    """In the node's dtype, as torch does: it converts first. A scalar is its own sum."""
    x = lowering.cast(x, lowering.output_type.dtype)
    return lowering.add(Cumulative(mode, normalize_axis(dim, x.rank)), x) if x.rank else x
