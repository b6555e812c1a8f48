"""Take: slices of one axis chosen by an index tensor. Embeddings are this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.pad import pad_axes
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import expand_values, normalize_axis, window_size
from torch2rt.layers.transpose import transpose
from torch2rt.lazy_torch import torch
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Take(LayerKind):
    """y = x[:, ..., i, :, ...]: the axis replaced by the axes of the index tensor i.

    Inputs: x, i of an integer dtype with values in [-size, size), negative ones counting from the
    end. Example: axis 0 of a table [v, d] with i [n, t] gives [n, t, d], an embedding.
    Source: numpy.take; torch.nn.functional.embedding; ONNX Gather.
    """

    name: ClassVar[str] = "take"
    axis: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The shape of x with the axis replaced by the shape of i."""
        x, index = inputs
        if not 0 <= self.axis < x.rank or not index.dtype.is_integer:
            raise ValueError(f"take along axis {self.axis} of {x} with {index}")
        shape = (*x.shape[: self.axis], *index.shape, *x.shape[self.axis + 1 :])
        return (TensorType(shape, x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Indexing."""
        x, index = inputs
        return (x[(slice(None),) * self.axis + (index.long(),)],)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


@rule("aten.embedding.default")
def lower_embedding(
    lowering: Lowering, weight: Tensor, indices: Tensor, **named: object
) -> Tensor:
    """Rows of the table; padding and gradient options matter in training only."""
    return lowering.add(Take(0), weight, indices)


@rule("aten.index_select.default")
def lower_index_select(lowering: Lowering, input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Slices of an axis, in the order of a vector of positions."""
    if input.rank == 0:
        raise Unsupported("index_select of a scalar")
    return lowering.add(
        Take(normalize_axis(dim, input.rank)), input, lowering.reshape(index, (-1,))
    )


@rule("aten.take.default")
def lower_take(lowering: Lowering, input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened tensor."""
    return lowering.add(Take(0), lowering.reshape(input, (-1,)), index)


@rule("aten.unfold.default")
def lower_unfold(
    lowering: Lowering, input: Tensor, dimension: int, size: int, step: int
) -> Tensor:
    """Windows of an axis; the axis counts windows, a new last axis runs inside them."""
    axis = normalize_axis(dimension, input.rank)
    length = input.shape[axis]
    if not isinstance(length, int) or input.rank == 0:
        raise Unsupported("windows over a symbolic size")
    windows = _windows(lowering, (length - size) // step + 1, size, step, 1)
    taken = lowering.add(Take(axis), input, windows)
    order = [i for i in range(taken.rank) if i != axis + 1]
    return transpose(lowering, taken, [*order, axis + 1])


@rule("aten.im2col.default")
def lower_im2col(
    lowering: Lowering, input: Tensor, kernel_size: Sequence[int], dilation: Sequence[int],
    padding: Sequence[int], stride: Sequence[int],
) -> Tensor:
    """Columns of every window: [n, c, h, w] -> [n, c*kh*kw, oh*ow], by windows of both axes."""
    kernel, pads = expand_values(kernel_size, 2), expand_values(padding, 2)
    steps, gaps = expand_values(stride, 2), expand_values(dilation, 2)
    if any(pads):
        counts = (pads[1], pads[1], pads[0], pads[0])
        input = pad_axes(lowering, input, counts, "constant", 0)
    first = input.rank - 2
    taken = input
    for spatial, axis in ((0, first), (1, first + 2)):
        length = taken.shape[axis]
        if not isinstance(length, int):
            raise Unsupported("windows over a symbolic size")
        count = window_size(length, kernel[spatial], steps[spatial], 0, gaps[spatial])
        assert isinstance(count, int)
        windows = _windows(lowering, count, kernel[spatial], steps[spatial], gaps[spatial])
        taken = lowering.add(Take(axis), taken, windows)
    batch = list(range(first))
    order = [first + 1, first + 3, first, first + 2]  # [oh, kh, ow, kw] -> [kh, kw, oh, ow]
    moved = transpose(lowering, taken, [*batch, *order])
    return lowering.reshape(moved, lowering.output_type.shape)


def _windows(lowering: Lowering, count: int, size: int, step: int, gap: int) -> Tensor:
    """Positions of the elements of every window: [count, size]."""
    starts = torch.arange(count) * step
    return lowering.constant("windows", starts[:, None] + torch.arange(size) * gap)
