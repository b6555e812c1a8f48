"""Slice: every step-th element of a range per axis. Splits and flips are slices too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.layers.transpose import transpose
from torch2rt.network.dim import Dim, SymbolicDim, maximum
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Slice(LayerKind):
    """y[i, j, ...] = x[starts[0] + i*steps[0], starts[1] + j*steps[1], ...].

    ``sizes`` is the shape of y; one start, size and step per axis. Steps are not 0; a negative
    step walks backwards. Every element read lies inside x. Starts and sizes may be symbolic.
    Source: Python's slices; ONNX Slice.
    """

    name: ClassVar[str] = "slice"
    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    steps: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """``sizes``; ValueError where known numbers leave x."""
        (x,) = inputs
        if not x.rank == len(self.starts) == len(self.sizes) == len(self.steps):
            raise ValueError(f"slice of {x} needs {x.rank} starts, sizes and steps")
        for axis, (length, start, size, step) in enumerate(
            zip(x.shape, self.starts, self.sizes, self.steps, strict=True)
        ):
            if step == 0:
                raise ValueError(f"slice of {x} has step 0 in axis {axis}")
            if isinstance(length, int) and isinstance(start, int) and isinstance(size, int):
                last = start + (size - 1) * step
                if size < 0 or (size and not (0 <= start < length and 0 <= last < length)):
                    raise ValueError(
                        f"slice of {x} reads {start} to {last} in axis {axis} of length {length}"
                    )
        return (TensorType(self.sizes, x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Python's slices, after a flip of the axes that are walked backwards."""
        (x,) = inputs
        x = x.flip([axis for axis, step in enumerate(self.steps) if step < 0])
        slices = []
        for length, start, size, step in zip(
            x.shape, self.starts, self.sizes, self.steps, strict=True
        ):
            first = length - 1 - start if step < 0 else start
            slices.append(slice(first, first + size * abs(step), abs(step)))
        return (x[tuple(slices)],)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


def slice_axis(
    lowering: Lowering, x: Tensor, axis: int, start: Dim, size: Dim, step: int = 1
) -> Tensor:
    """``size`` elements of one axis; x itself if that is all of it in order."""
    if start == 0 and step == 1 and size == x.shape[axis]:
        return x
    starts: list[Dim] = [0] * x.rank
    sizes = list(x.shape)
    steps = [1] * x.rank
    starts[axis], sizes[axis], steps[axis] = start, size, step
    return lowering.add(Slice(tuple(starts), tuple(sizes), tuple(steps)), x)


def resolve_index(index: Dim, length: Dim) -> Dim:
    """A position counted from the front, not before it; a negative one counts from the end.

    A symbolic index is taken as counted from the front.
    """
    if isinstance(index, SymbolicDim) or index >= 0:
        return min(index, length) if isinstance(index, int) and isinstance(length, int) else index
    return max(0, length + index) if isinstance(length, int) else maximum(0, length + index)


def drop_axis(shape: Shape, axis: int) -> Shape:
    """The shape without one axis."""
    return (*shape[:axis], *shape[axis + 1 :])


@rule("aten.slice.Tensor", "aten.slice_copy.Tensor")
def lower_slice(
    lowering: Lowering, input: Tensor, dim: int, start: Dim | None, end: Dim | None, step: int
) -> Tensor:
    """x[start:end:step] of one axis. The node knows the size of the result."""
    axis = normalize_axis(dim, input.rank)
    length = input.shape[axis]
    size = lowering.output_type.shape[axis]
    first = resolve_index(0 if start is None else start, length)
    if isinstance(start, int) and start < 0 and end is None and step == 1 and size == -start:
        first = length + start  # the capture has guarded that the axis is long enough
    return slice_axis(lowering, input, axis, first, size, step)


@rule("aten.narrow.default", "aten.narrow_copy.default")
def lower_narrow(
    lowering: Lowering, input: Tensor, dim: int, start: Dim, length: Dim
) -> Tensor:
    """``length`` elements from ``start`` on."""
    axis = normalize_axis(dim, input.rank)
    return slice_axis(
        lowering, input, axis, resolve_index(start, input.shape[axis]), length
    )


@rule("aten.select.int", "aten.select_copy.int")
def lower_select(lowering: Lowering, input: Tensor, dim: int, index: Dim) -> Tensor:
    """One element of an axis, which goes away."""
    axis = normalize_axis(dim, input.rank)
    return _take_one(lowering, input, axis, select_position(index, input.shape[axis]))


def select_position(index: Dim, length: Dim) -> Dim:
    """An index counted from the front; one known to be negative counts from the end."""
    return length + index if isinstance(index, int) and index < 0 else index


def _take_one(lowering: Lowering, x: Tensor, axis: int, position: Dim) -> Tensor:
    one = slice_axis(lowering, x, axis, position, 1)
    return lowering.reshape(one, drop_axis(x.shape, axis))


@rule("aten.unbind.int", "aten.unbind_copy.int")
def lower_unbind(lowering: Lowering, input: Tensor, dim: int) -> list[Tensor]:
    """Every element of an axis by itself."""
    axis = normalize_axis(dim, input.rank)
    count = len(lowering.output_types)
    return [_take_one(lowering, input, axis, position) for position in range(count)]


@rule(
    "aten.split.Tensor", "aten.split.sizes", "aten.split_with_sizes.default",
    "aten.chunk.default", "aten.tensor_split.sections", "aten.tensor_split.indices",
    "aten.unsafe_split.Tensor", "aten.unsafe_split_with_sizes.default",
    "aten.unsafe_chunk.default", "aten.split_copy.Tensor", "aten.split_with_sizes_copy.default",
)
def lower_split(
    lowering: Lowering, input: Tensor, dim: int, **named: object
) -> list[Tensor]:
    """Neighbouring ranges of an axis. The node knows their sizes."""
    return split(lowering, input, normalize_axis(dim, input.rank))


@rule("aten.hsplit.int", "aten.hsplit.array")
def lower_hsplit(lowering: Lowering, input: Tensor, **named: object) -> list[Tensor]:
    """Ranges of axis 1, of a vector of its only axis."""
    return split(lowering, input, 0 if input.rank == 1 else 1)


@rule("aten.vsplit.int", "aten.vsplit.array")
def lower_vsplit(lowering: Lowering, input: Tensor, **named: object) -> list[Tensor]:
    """Ranges of axis 0."""
    return split(lowering, input, 0)


def split(lowering: Lowering, x: Tensor, axis: int) -> list[Tensor]:
    """The node's results as neighbouring ranges of an axis."""
    start: Dim = 0
    results = []
    for type in lowering.output_types:
        results.append(slice_axis(lowering, x, axis, start, type.shape[axis]))
        start = start + type.shape[axis]
    return results


@rule("aten.flip.default")
def lower_flip(lowering: Lowering, input: Tensor, dims: Sequence[int]) -> Tensor:
    """The axes walked backwards."""
    return flip(lowering, input, dims)


@rule("aten.fliplr.default")
def lower_fliplr(lowering: Lowering, input: Tensor) -> Tensor:
    """Axis 1 walked backwards."""
    return flip(lowering, input, (1,))


@rule("aten.flipud.default")
def lower_flipud(lowering: Lowering, input: Tensor) -> Tensor:
    """Axis 0 walked backwards."""
    return flip(lowering, input, (0,))


def flip(lowering: Lowering, input: Tensor, dims: Sequence[int]) -> Tensor:
    """Add the layer that walks axes backwards; the input itself without axes."""
    axes = {normalize_axis(dim, input.rank) for dim in dims}
    if not axes or input.rank == 0:
        return input
    starts = tuple(size - 1 if i in axes else 0 for i, size in enumerate(input.shape))
    steps = tuple(-1 if axis in axes else 1 for axis in range(input.rank))
    return lowering.add(Slice(starts, input.shape, steps), input)


@rule("aten.diagonal.default", "aten.diagonal_copy.default")
def lower_diagonal(
    lowering: Lowering, input: Tensor, offset: int, dim1: int, dim2: int
) -> Tensor:
    """Every (columns + 1)-th element of the two axes laid out as one, which becomes the last."""
    first, second = normalize_axis(dim1, input.rank), normalize_axis(dim2, input.rank)
    rows, columns = input.shape[first], input.shape[second]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise Unsupported("a diagonal over symbolic sizes")
    others = [axis for axis in range(input.rank) if axis not in (first, second)]
    moved = transpose(lowering, input, [*others, first, second])
    flat = lowering.reshape(moved, (*moved.shape[:-2], rows * columns))
    size = lowering.output_type.shape[-1]
    start = offset if offset >= 0 else -offset * columns
    return slice_axis(lowering, flat, flat.rank - 1, start if size else 0, size, columns + 1)
