"""Tactics that move elements: their layouts, their axes, and strided copies as launches."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from torch2rt.backends.buffer import VECTOR_BYTES
from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import (
    I32,
    Argument,
    In,
    KernelPrepared,
    Launch,
    Out,
    Packed,
)
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda import copy as copy_kernel
from torch2rt.kernels.cuda import transpose as transpose_kernel
from torch2rt.kernels.cuda.strided import Axis, count, merge_axes
from torch2rt.network.dtype import Array, DType

_MAX_PARTS = 8  # copies in one launch
_MAX_SPAN = 2**31 - 2**16
_SMALLEST_TILED = 8  # shorter axes than this are not worth a tile


def image_layouts(rank: int) -> tuple[Layout, ...]:
    """The layouts of a tensor of that rank: images are channels-last first."""
    return (Layout.CHANNELS_LAST, Layout.PLAIN) if rank in (4, 5) else (Layout.PLAIN,)


def layout_pairs(spec: LayerSpec) -> list[LayoutChoice]:
    """Every layout of the input with every one of the output.

    Between an image and a sequence there is often a tensor [n, c, pixels]: it may be channels-last
    as well, so that neither of its neighbours moves anything.
    """
    return [
        LayoutChoice((first,), (second,))
        for first in _any_layouts(spec.inputs[0].rank)
        for second in _any_layouts(spec.outputs[0].rank)
    ]


def _any_layouts(rank: int) -> tuple[Layout, ...]:
    return (Layout.PLAIN, Layout.CHANNELS_LAST) if rank == 3 else image_layouts(rank)


def same_layouts(spec: LayerSpec) -> Sequence[LayoutChoice]:
    """Every image in one layout, everything else row-major."""
    operands = (*spec.inputs, *spec.outputs)
    rank = 4 if any(tensor.rank in (4, 5) for tensor in operands) else 1
    return [
        LayoutChoice(
            tuple(_layout(tensor, layout) for tensor in spec.inputs),
            tuple(_layout(tensor, layout) for tensor in spec.outputs),
        )
        for layout in image_layouts(rank)
    ]


def _layout(tensor: TensorSpec, layout: Layout) -> Layout:
    return layout if layout in image_layouts(tensor.rank) else Layout.PLAIN


def span(tensor: TensorSpec) -> int:
    """Elements from the first to the last in memory."""
    return 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )


def ordered(axes: Sequence[Axis]) -> list[Axis]:
    """The axes in the order of the first operand's memory, neighbours merged; never none."""
    kept = [axis for axis in axes if axis.size > 1]
    merged = merge_axes(sorted(kept, key=lambda axis: -axis.strides[0]))
    return merged or [Axis(1, (1,) * (len(axes[0].strides) if axes else 2))]


def stored(values: Array, dtype: DType) -> Array:
    """Numbers as arrays of a dtype store them. Raises Unprepared for float8 other than 0."""
    if dtype is DType.BFLOAT16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
    if dtype is DType.FLOAT8_E4M3 and np.any(values != 0):
        raise Unprepared("numbers as float8")
    with np.errstate(over="ignore"):
        return values.astype(dtype.numpy)


def pattern_of(value: float | int | bool, dtype: DType) -> int:
    """8 bytes of elements of that value, as a signed number."""
    element = stored(np.asarray([value]), dtype)
    return int(np.tile(element, 8 // dtype.itemsize_bytes).view(np.int64)[0])


def missing_pattern(dtype: DType) -> int:
    """What is read out of range: NaN for floats (all bits set), 0 for other types."""
    return -1 if dtype.is_float else 0


class Move(Tactic):
    """A tactic that moves elements of any dtype. Subclasses say how; pitched operands are fine."""

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Operands are reached through strides."""
        return True

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Tensors that 32-bit offsets reach; no epilogue."""
        if spec.epilogue is not None:
            return Refusal("an epilogue")
        if any(span(tensor) > _MAX_SPAN for tensor in (*spec.inputs, *spec.outputs)):
            return Refusal("more elements than 32-bit offsets reach")
        return self.refusal(spec)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """What else the tactic refuses."""
        return None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Every image in one layout."""
        return same_layouts(spec)

    @abc.abstractmethod
    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """The launches."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Elements to copy: strides of the axes are (to, from), counted in elements."""

    source: In | Packed
    target: Out
    axes: tuple[Axis, ...]
    item_bytes: int


class CopyMove(Move):
    """A layer that is a few strided copies."""

    @abc.abstractmethod
    def copies(self, spec: LayerSpec, weights: Weights) -> Sequence[Copy]:
        """The copies, in no particular order."""

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """As few launches as will do."""
        return KernelPrepared(copy_launches(weights, self.copies(spec, weights)))


def part_of(
    spec: LayerSpec, weights: Weights, axes: Sequence[Axis], *, source: int = 0,
    source_start: int = 0, target_start: int = 0,
) -> Copy:
    """The copy of an input, or of part of it, into the output; starts count elements."""
    item = spec.outputs[0].dtype.itemsize_bytes
    place = operand(spec, weights, source)
    if isinstance(place, In):
        place = In(source, source_start * item)
    elif source_start:
        raise Unprepared("a part of a constant, which is a constant itself")
    return Copy(place, Out(0, target_start * item), tuple(axes), item)


def overwritable(spec: LayerSpec) -> tuple[int, ...]:
    """Input 0, for kernels that read an element of it only where they write that element."""
    return (0,) if spec.constants[0] is None else ()


def whole_axes(target: TensorSpec, source: TensorSpec) -> list[Axis]:
    """The axes of a copy between tensors of one shape."""
    return [
        Axis(size, (to, origin))
        for size, to, origin in zip(source.shape, target.strides, source.strides, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Walk:
    """A copy in vectors: sizes and strides count them, but a broadcast source counts items."""

    copy: Copy
    vector_bytes: int
    source_bytes: int
    axes: tuple[Axis, ...]


def copy_launches(weights: Weights, copies: Sequence[Copy]) -> list[Launch]:
    """Launches that do all the copies: tiles where a copy turns memory, else shared by several.

    Copies of nothing are left out.
    """
    launches: list[Launch] = []
    groups: dict[tuple[int, int], list[_Walk]] = {}
    for copy in copies:
        if count(copy.axes) == 0:
            continue
        axes = ordered(copy.axes)
        tiled = _tiled_axes(axes)
        if tiled is not None:
            launches.append(_transpose_launch(weights, replace(copy, axes=tuple(axes)), *tiled))
            continue
        walk = _walk(copy, axes)
        groups.setdefault((walk.vector_bytes, walk.source_bytes), []).append(walk)
    for walks in groups.values():
        for first in range(0, len(walks), _MAX_PARTS):
            launches.append(_copy_launch(weights, walks[first : first + _MAX_PARTS]))
    return launches


def vector_items(axes: Sequence[Axis], item_bytes: int, multiples: Sequence[int] = ()) -> int:
    """Elements that are moved at once: operands that move along the innermost axis move by 1.

    All their other strides, the innermost size and ``multiples`` are whole vectors.
    """
    inner = axes[-1]
    moving = [i for i, stride in enumerate(inner.strides) if stride]
    if inner.strides[0] != 1 or any(inner.strides[i] != 1 for i in moving):
        return 1
    numbers = [inner.size, *multiples]
    numbers += [abs(axis.strides[i]) for axis in axes[:-1] for i in moving]
    return math.gcd(VECTOR_BYTES // item_bytes, *numbers)


def in_vectors(axes: Sequence[Axis], vector: int) -> tuple[Axis, ...]:
    """The axes counted in vectors, for the operands that move along the innermost one."""
    inner = axes[-1]
    outer = [
        Axis(axis.size, tuple(
            stride // vector if moves else stride
            for stride, moves in zip(axis.strides, inner.strides, strict=True)
        ))
        for axis in axes[:-1]
    ]
    return (*outer, Axis(inner.size // vector, inner.strides)) if vector > 1 else tuple(axes)


def axis_arguments(axes: Sequence[Axis], rank: int, operands: Sequence[int]) -> list[Argument]:
    """Sizes, then the strides of these operands, with axes of size 1 in front up to a rank."""
    fill = rank - len(axes)
    columns = [[1] * fill + [axis.size for axis in axes]]
    columns += [[0] * fill + [axis.strides[index] for axis in axes] for index in operands]
    return [I32(value) for column in columns for value in column]


def _walk(copy: Copy, axes: Sequence[Axis]) -> _Walk:
    item = copy.item_bytes
    starts = [copy.target.offset_bytes]
    if isinstance(copy.source, In) and axes[-1].strides[1]:
        starts.append(copy.source.offset_bytes)
    vector = vector_items(axes, item, [start // item for start in starts])
    source_bytes = item * vector if axes[-1].strides[1] else item
    return _Walk(copy, item * vector, source_bytes, in_vectors(axes, vector))


def _copy_launch(weights: Weights, walks: Sequence[_Walk]) -> Launch:
    rank = max(len(walk.axes) for walk in walks)
    total = sum(count(walk.axes) for walk in walks)
    # Large copies: several loads in flight per thread, once every processor has its threads.
    unroll = 4 if total >= current_device().multiprocessors * 2048 * 4 else 1
    per_block = copy_kernel.THREADS * unroll
    arguments: list[Argument] = []
    blocks = 0
    for walk in walks:
        vectors = count(walk.axes)
        blocks += -(-vectors // per_block)
        arguments += [walk.copy.source, walk.copy.target, I32(blocks), I32(vectors)]
        arguments += axis_arguments(walk.axes, rank, (1, 0))
    source = copy_kernel.copy_source(
        walks[0].vector_bytes, walks[0].source_bytes, rank, len(walks), unroll
    )
    kernel = cpp_kernel(weights, copy_kernel.NAME, source)
    return Launch(
        kernel, (blocks, 1, 1), (copy_kernel.THREADS, 1, 1), arguments, overlaps=True
    )


def _tiled_axes(axes: Sequence[Axis]) -> tuple[int, int] | None:
    """Positions of the axes that are contiguous in the target and in the source, if they differ."""
    if axes[-1].strides[0] != 1 or axes[-1].strides[1] in (0, 1):
        return None
    for position, axis in enumerate(axes[:-1]):
        if axis.strides[1] == 1 and min(axis.size, axes[-1].size) >= _SMALLEST_TILED:
            return len(axes) - 1, position
    return None


def _transpose_launch(weights: Weights, copy: Copy, first: int, second: int) -> Launch:
    a, b = copy.axes[first], copy.axes[second]
    others = [axis for i, axis in enumerate(copy.axes) if i not in (first, second)]
    rank = max(1, len(others))
    tile = transpose_kernel.tile_size(copy.item_bytes)
    tiles_a, tiles_b = -(-a.size // tile), -(-b.size // tile)
    numbers = [a.size, b.size, a.strides[1], b.strides[0], tiles_a, tiles_b]
    kernel = cpp_kernel(
        weights, transpose_kernel.NAME,
        transpose_kernel.transpose_source(copy.item_bytes, rank),
    )
    return Launch(
        kernel, (tiles_a * tiles_b * count(others), 1, 1), (transpose_kernel.THREADS, 1, 1),
        [copy.source, copy.target, *map(I32, numbers), *axis_arguments(others, rank, (1, 0))],
        overlaps=True,
    )


def flat_launch(
    weights: Weights, name: str, source: str, threads: int, total: int,
    arguments: Sequence[Argument],
) -> Launch:
    """A launch of one thread for each of ``total`` things."""
    kernel = cpp_kernel(weights, name, source)
    return Launch(
        kernel, (-(-total // threads), 1, 1), (threads, 1, 1), arguments, overlaps=True
    )


def largest_vector(size_bytes: int) -> int:
    """Bytes of the widest vectors that fill so many bytes."""
    return math.gcd(VECTOR_BYTES, size_bytes)
