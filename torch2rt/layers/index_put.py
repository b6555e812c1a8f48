"""Index put: a copy of a tensor with indexed elements replaced or added to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.fill import filled
from torch2rt.layers.index import index_expression, split_indices
from torch2rt.layers.pad import pad_axes
from torch2rt.layers.pointwise_rules import select
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import expand_values, normalize_axis, window_size
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import is_static
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class IndexPut(LayerKind):
    """y = x but y[..., i0, ..., i1, ...] = values (+= with ``accumulate``).

    Inputs: x, values, then one integer index tensor for each of ``axes``, which ascend; values
    broadcast to the indexed shape. Source: torch.index_put.
    """

    name: ClassVar[str] = "index_put"
    axes: tuple[int, ...]
    accumulate: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        x, values, *indices = inputs
        if len(indices) != len(self.axes) or values.dtype != x.dtype:
            raise ValueError(f"index_put of {values} into {x} along {list(self.axes)}")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.index_put."""
        x, values, *indices = inputs
        brackets = index_expression(self.axes, indices)
        where = [None if isinstance(index, slice) else index for index in brackets]
        result: TorchTensor = torch.ops.aten.index_put(x, where, values, self.accumulate)
        return (result,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """One per value where they add up."""
        return int(inputs[1].element_count) if self.accumulate else 0


@rule("aten.index_put.default", "aten._unsafe_index_put.default")
def lower_index_put(
    lowering: Lowering, input: Tensor, indices: Sequence[Tensor | None], values: Tensor,
    accumulate: bool,
) -> Tensor:
    """By positions, or by one mask of the leading axes with a single value."""
    values = lowering.cast(values, input.dtype)
    mask = indices[0]
    if len(indices) == 1 and mask is not None and mask.dtype is DType.BOOL:
        if values.type.element_count != 1 or accumulate:
            raise Unsupported("a mask as index with more than one value")
        wide = lowering.reshape(mask, (*mask.shape, *(1,) * (input.rank - mask.rank)))
        return select(lowering, wide, lowering.reshape(values, ()), input)
    axes, tensors = split_indices(indices)
    return lowering.add(IndexPut(axes, accumulate), input, values, *tensors)


@rule("aten.index_copy.default")
def lower_index_copy(
    lowering: Lowering, input: Tensor, dim: int, index: Tensor, source: Tensor
) -> Tensor:
    """Slices of an axis replaced."""
    return _put_slices(lowering, input, dim, index, source, accumulate=False)


@rule("aten.index_add.default")
def lower_index_add(
    lowering: Lowering, input: Tensor, dim: int, index: Tensor, source: Tensor,
    alpha: float | int,
) -> Tensor:
    """Slices added to slices of an axis."""
    if alpha != 1:
        raise Unsupported("index_add with a factor")
    return _put_slices(lowering, input, dim, index, source, accumulate=True)


def _put_slices(
    lowering: Lowering, x: Tensor, dim: int, index: Tensor, source: Tensor, *, accumulate: bool
) -> Tensor:
    if x.rank == 0 or source.rank != x.rank:
        raise Unsupported("a scalar among slices")
    axis = normalize_axis(dim, x.rank)
    vector = lowering.reshape(index, (-1,))
    return lowering.add(IndexPut((axis,), accumulate), x, source, vector)


@rule("aten.col2im.default")
def lower_col2im(
    lowering: Lowering, input: Tensor, output_size: Sequence[int], kernel_size: Sequence[int],
    dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int],
) -> Tensor:
    """Columns of every window added up where windows overlap: the inverse of im2col.

    [..., c*kh*kw, oh*ow] -> [..., c, kh*kw*oh*ow], added to zeros [..., c, h*w] by position.
    """
    image = lowering.output_type.shape
    if not is_static(*output_size):
        raise Unsupported("windows over a symbolic size")
    sizes, pads = expand_values(output_size, 2), expand_values(padding, 2)
    padded = [size + 2 * pad for size, pad in zip(sizes, pads, strict=True)]
    kernel, gaps = expand_values(kernel_size, 2), expand_values(dilation, 2)
    rows, columns = (
        _positions(padded[i], kernel[i], gaps[i], expand_values(stride, 2)[i]) for i in (0, 1)
    )
    # [kh, 1, oh, 1] and [1, kw, 1, ow]: the order of the columns' elements
    places = rows[:, None, :, None] * padded[1] + columns[None, :, None, :]
    flat = lowering.reshape(input, (*image[:-2], -1))
    base = filled(lowering, (*image[:-2], padded[0] * padded[1]), 0, input.dtype)
    index = lowering.constant("col2im.positions", places.reshape(-1))
    total = lowering.add(IndexPut((flat.rank - 1,), accumulate=True), base, flat, index)
    whole = lowering.reshape(total, (*image[:-2], *padded))
    return pad_axes(lowering, whole, (-pads[1], -pads[1], -pads[0], -pads[0]), "constant", 0)


def _positions(size: int, kernel: int, gap: int, step: int) -> TorchTensor:
    """Where every tap of every window lies on an axis: [kernel, windows]."""
    count = window_size(size, kernel, step, 0, gap)
    assert isinstance(count, int)
    return torch.arange(kernel)[:, None] * gap + torch.arange(count) * step
