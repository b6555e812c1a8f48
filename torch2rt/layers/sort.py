"""Sorting along an axis, and its first elements (top k)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Sort(LayerKind):
    """Outputs: the values of x in order along ``axis``, and where they stood (int64).

    Input: x of any rank but 0; ``axis`` is not negative. With ``count``, only the first ``count``
    are kept (top k): of equal values any may be, and in any order unless ``is_ordered``. Without,
    equal values keep their order. NaN counts as the largest.
    Source: torch.sort, torch.topk; ONNX TopK.
    """

    name: ClassVar[str] = "sort"
    axis: int
    is_descending: bool = False
    count: Dim | None = None
    is_ordered: bool = True

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x with ``count`` elements along the axis, and the same in int64."""
        (x,) = inputs
        if not 0 <= self.axis < x.rank:
            raise ValueError(f"sorting along axis {self.axis} of {x}")
        size = x.shape[self.axis]
        count = size if self.count is None else self.count
        if isinstance(size, int) and isinstance(count, int) and not 0 <= count <= size:
            raise ValueError(f"the first {count} of {size} along axis {self.axis} of {x}")
        shape = (*x.shape[: self.axis], count, *x.shape[self.axis + 1 :])
        return (TensorType(shape, x.dtype), TensorType(shape, DType.INT64))

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The functions of torch."""
        (x,) = inputs
        if self.count is None:
            return tuple(torch.sort(x, stable=True, dim=self.axis, descending=self.is_descending))
        count = int(self.count)
        return tuple(torch.topk(x, count, self.axis, self.is_descending, self.is_ordered))

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """One comparison per element and bit of the length."""
        length = int(inputs[0].shape[self.axis])
        return int(inputs[0].element_count) * length.bit_length()


@rule("aten.topk.default")
def lower_topk(
    lowering: Lowering, input: Tensor, k: Dim, dim: int, largest: bool, sorted: bool
) -> list[Tensor]:
    """The k largest or smallest values and their indices."""
    return _sort(lowering, input, dim, largest, k, sorted)


@rule("aten.sort.default", "aten.sort.stable")
def lower_sort(
    lowering: Lowering, input: Tensor, dim: int, descending: bool, stable: bool | None = None
) -> list[Tensor]:
    """All values in order and their indices."""
    return _sort(lowering, input, dim, descending)


@rule("aten.argsort.default", "aten.argsort.stable")
def lower_argsort(
    lowering: Lowering, input: Tensor, dim: int, descending: bool, stable: bool | None = None
) -> Tensor:
    """The indices alone."""
    return _sort(lowering, input, dim, descending)[1]


@rule("aten.msort.default")
def lower_msort(lowering: Lowering, input: Tensor) -> Tensor:
    """The values in ascending order along the first axis."""
    return _sort(lowering, input, 0, False)[0]


def _sort(
    lowering: Lowering, x: Tensor, dim: int, is_descending: bool, count: Dim | None = None,
    is_ordered: bool = True,
) -> list[Tensor]:
    if x.rank == 0:
        raise Unsupported("sorting a scalar")
    kind = Sort(normalize_axis(dim, x.rank), is_descending, count, is_ordered)
    return lowering.add_many(kind, x)
