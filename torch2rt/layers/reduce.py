"""Reduction over axes: sum, mean, max, min, product, any, all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering

_MODES = ("sum", "mean", "max", "min", "prod", "any", "all")


@dataclass(frozen=True)
class Reduce(LayerKind):
    """y = mode over ``axes`` of x; the axes stay with length 1 if ``keepdim``.

    Input: x of any rank; ``axes`` are not negative, ascending, at least one. Output dtype: that of
    x, or bool for any and all. max and min give NaN where one is among the values.
    Source: torch.sum, torch.amax; ONNX ReduceSum and the like.
    """

    name: ClassVar[str] = "reduce"
    takes_epilogue: ClassVar[bool] = True
    mode: str
    axes: tuple[int, ...]
    keepdim: bool = False

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"unknown reduction {self.mode!r}, expected one of {_MODES}")
        if not self.axes or list(self.axes) != sorted(set(self.axes)) or self.axes[0] < 0:
            raise ValueError(f"axes {self.axes} of a reduction must ascend and not be empty")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The shape of x without the axes, or with length 1 there."""
        (x,) = inputs
        if self.axes[-1] >= x.rank:
            raise ValueError(f"reduction over axes {self.axes} of {x}")
        dtype = DType.BOOL if self.mode in ("any", "all") else x.dtype
        return (TensorType(reduced_shape(x.shape, self.axes, self.keepdim), dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The torch function of that name; the product one axis at a time."""
        (x,) = inputs
        if self.mode == "prod":
            for axis in reversed(self.axes):
                x = x.prod(axis, keepdim=self.keepdim, dtype=x.dtype)
            return (x,)
        if self.mode == "sum":
            return (x.sum(self.axes, keepdim=self.keepdim, dtype=x.dtype),)
        function = {"max": torch.amax, "min": torch.amin}.get(self.mode)
        if function is None:
            function = getattr(torch, self.mode)
        return (function(x, self.axes, keepdim=self.keepdim),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """One per input element."""
        return int(inputs[0].element_count)


def reduced_shape(shape: Shape, axes: Sequence[int], keepdim: bool) -> Shape:
    """The shape without these axes, or with length 1 there."""
    if keepdim:
        return tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in axes)


def reduction_axes(dim: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Ascending axes of torch's ``dim``: None and an empty list mean all."""
    if dim is None or dim == []:
        return tuple(range(rank))
    dims = [dim] if isinstance(dim, int) else dim
    axes = {normalize_axis(axis, rank) for axis in dims}
    return tuple(sorted(axes)) if rank else ()


def reduce(
    lowering: Lowering, mode: str, x: Tensor, axes: tuple[int, ...], keepdim: bool = False
) -> Tensor:
    """Add a reduction; over no axes (a scalar) it is the tensor itself."""
    if axes:
        return lowering.add(Reduce(mode, axes, keepdim), x)
    return lowering.cast(x, DType.BOOL) if mode in ("any", "all") else x


@rule("aten.sum.default")
def lower_sum_all(lowering: Lowering, input: Tensor, dtype: DType | None) -> Tensor:
    """Sum of all elements; integers in int64."""
    return _in_output_dtype(lowering, "sum", input, None, False)


@rule("aten.sum.dim_IntList")
def lower_sum(
    lowering: Lowering, input: Tensor, dim: Sequence[int] | None, keepdim: bool,
    dtype: DType | None,
) -> Tensor:
    """Sum over axes; integers in int64."""
    return _in_output_dtype(lowering, "sum", input, dim, keepdim)


@rule("aten.mean.default")
def lower_mean_all(lowering: Lowering, input: Tensor, dtype: DType | None) -> Tensor:
    """Mean of all elements."""
    return _in_output_dtype(lowering, "mean", input, None, False)


@rule("aten.mean.dim")
def lower_mean(
    lowering: Lowering, input: Tensor, dim: Sequence[int] | None, keepdim: bool,
    dtype: DType | None,
) -> Tensor:
    """Mean over axes."""
    return _in_output_dtype(lowering, "mean", input, dim, keepdim)


@rule("aten.prod.default")
def lower_prod_all(lowering: Lowering, input: Tensor, dtype: DType | None) -> Tensor:
    """Product of all elements; integers in int64."""
    return _in_output_dtype(lowering, "prod", input, None, False)


@rule("aten.prod.dim_int")
def lower_prod(
    lowering: Lowering, input: Tensor, dim: int, keepdim: bool, dtype: DType | None
) -> Tensor:
    """Product over one axis; integers in int64."""
    return _in_output_dtype(lowering, "prod", input, dim, keepdim)


@rule("aten.amax.default")
def lower_amax(lowering: Lowering, input: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """Largest value over axes."""
    return reduce(lowering, "max", input, reduction_axes(dim, input.rank), keepdim)


@rule("aten.amin.default")
def lower_amin(lowering: Lowering, input: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """Smallest value over axes."""
    return reduce(lowering, "min", input, reduction_axes(dim, input.rank), keepdim)


@rule("aten.max.default")
def lower_max_all(lowering: Lowering, input: Tensor) -> Tensor:
    """Largest of all values."""
    return reduce(lowering, "max", input, reduction_axes(None, input.rank))


@rule("aten.min.default")
def lower_min_all(lowering: Lowering, input: Tensor) -> Tensor:
    """Smallest of all values."""
    return reduce(lowering, "min", input, reduction_axes(None, input.rank))


@rule("aten.aminmax.default")
def lower_aminmax(
    lowering: Lowering, input: Tensor, dim: int | None, keepdim: bool
) -> list[Tensor]:
    """Smallest and largest value over one axis or all."""
    axes = reduction_axes(dim, input.rank)
    return [reduce(lowering, mode, input, axes, keepdim) for mode in ("min", "max")]


@rule("aten.any.default", "aten.any.dim", "aten.any.dims")
def lower_any(
    lowering: Lowering, input: Tensor, dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Tensor:
    """Whether any value is not zero; uint8 for uint8, as in torch."""
    result = reduce(lowering, "any", input, reduction_axes(dim, input.rank), keepdim)
    return lowering.cast(result, lowering.output_type.dtype)


@rule("aten.all.default", "aten.all.dim", "aten.all.dims")
def lower_all(
    lowering: Lowering, input: Tensor, dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Tensor:
    """Whether all values are not zero; uint8 for uint8, as in torch."""
    result = reduce(lowering, "all", input, reduction_axes(dim, input.rank), keepdim)
    return lowering.cast(result, lowering.output_type.dtype)


@rule("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def lower_count_nonzero(
    lowering: Lowering, input: Tensor, dim: int | Sequence[int] | None = None
) -> Tensor:
    """How many values are not zero."""
    nonzero = lowering.pointwise("ne", input, 0, dtype=DType.BOOL)
    return _in_output_dtype(lowering, "sum", nonzero, dim, False)


def _in_output_dtype(
    lowering: Lowering, mode: str, x: Tensor, dim: int | Sequence[int] | None, keepdim: bool
) -> Tensor:
    """Reduce in the node's dtype, as torch does: it converts first."""
    x = lowering.cast(x, lowering.output_type.dtype)
    return reduce(lowering, mode, x, reduction_axes(dim, x.rank), keepdim)
