"""Tensors in each other's memory: the order of bytes in every layout; steps that run nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import Layout, TensorSpec, canonical_layout
from torch2rt.backends.tactic import Call, Prepared, View

# The output is the whole input.
WHOLE = (View(("output", 0), ("input", 0), 0),)


@dataclass
class ViewsPrepared(Prepared):
    """Only views."""

    views: tuple[View, ...]

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """Nothing to run."""
        return ()


@dataclass(frozen=True, slots=True)
class MemoryAxis:
    """One axis of a tensor's bytes: ``axis`` of the tensor in units of ``unit`` indices.

    Channels in blocks give two: whole blocks (unit: the block) and places in a block (unit 1).
    """

    axis: int
    size: int
    unit: int = 1
    is_within_block: bool = False


def memory_axes(spec: TensorSpec) -> list[MemoryAxis]:
    """The axes of a tensor's bytes, outermost first."""
    axes = [MemoryAxis(axis, size) for axis, size in enumerate(spec.shape)]
    if spec.layout is Layout.PLAIN or spec.rank < 3:
        return axes
    if spec.layout is Layout.CHANNELS_LAST:
        return [axes[0], *axes[2:], axes[1]]
    block = spec.layout.block
    blocks = MemoryAxis(1, -(-spec.shape[1] // block), block)
    return [axes[0], blocks, *axes[2:], MemoryAxis(1, block, 1, is_within_block=True)]


def slice_offset_bytes(
    spec: TensorSpec, starts: Sequence[int], sizes: Sequence[int]
) -> int | None:
    """Where the part of ``sizes`` from ``starts`` begins, if its bytes lie together; else None.

    In blocks, a part must begin with one, and fill its last one unless the tensor ends there.
    """
    axes = memory_axes(spec)
    offset = 0
    is_inside = False  # whether an outer axis has more than one index, so that this must be whole
    for position, axis in enumerate(axes):
        inner = math.prod(other.size for other in axes[position + 1 :])
        if axis.is_within_block:
            continue
        start, size = starts[axis.axis], sizes[axis.axis]
        length = spec.shape[axis.axis]
        if start % axis.unit or (size % axis.unit and start + size != length):
            return None
        if is_inside and size != length:
            return None
        offset += start // axis.unit * inner
        is_inside = is_inside or -(-size // axis.unit) > 1
    return offset * spec.dtype.itemsize_bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Where a part of a tensor lies: ``run`` and ``pitch`` in elements, 0 if it is dense."""

    offset_bytes: int
    run: int = 0
    pitch: int = 0

    def is_aligned(self, itemsize_bytes: int, alignment: int) -> bool:
        """Whether every run starts at a multiple of ``alignment`` bytes and has whole ones."""
        numbers = (self.offset_bytes, self.run * itemsize_bytes, self.pitch * itemsize_bytes)
        return all(number % alignment == 0 for number in numbers)


def pitched_part(
    spec: TensorSpec, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]
) -> Part | None:
    """The part ``starts + i * steps`` as runs that are whole trailing axes of it, evenly apart.

    None if it is not that. The tensor may be pitched itself, but not blocked.
    """
    if spec.layout.block > 1:
        return None
    strides = spec.strides
    offset = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    axes = [
        (sizes[axis], strides[axis] * steps[axis])
        for axis in spec.memory_order if sizes[axis] != 1
    ]
    run = 1
    while axes and axes[-1][1] == run:
        run *= axes.pop()[0]
    pitch, count = (axes[-1][1], 1) if axes else (0, 1)
    for size, stride in reversed(axes):
        if stride != pitch * count:
            return None
        count *= size
    if axes and pitch < run:
        return None
    return Part(offset * spec.dtype.itemsize_bytes, run if axes else 0, pitch)


def keeps_runs(source: TensorSpec, target: TensorSpec) -> bool:
    """Whether the source's runs are whole trailing axes of the target, whose bytes are the same."""
    if source.is_dense:
        return target.is_dense
    sizes = [target.shape[axis] for axis in target.memory_order]
    products = [math.prod(sizes[first:]) for first in range(len(sizes) + 1)]
    is_same = target.is_dense or (target.run, target.pitch) == (source.run, source.pitch)
    return is_same and source.run in products


def whole_view(source: TensorSpec) -> View:
    """The output as all of the input, in its runs if it is pitched."""
    return View(("output", 0), ("input", 0), 0, source.run, source.pitch)


def is_reshape_view(source: TensorSpec, target: TensorSpec) -> bool:
    """Whether the elements of both, in row-major order, are in the same order in memory."""
    if all(canonical_layout(tensor) is Layout.PLAIN for tensor in (source, target)):
        return True
    # In other layouts batch and channels must stay; the space is in row-major order in all of them.
    is_same = source.layout is target.layout and source.shape[:2] == target.shape[:2]
    return is_same and source.layout is not Layout.PLAIN


def is_transpose_view(
    source: TensorSpec, target: TensorSpec, permutation: Sequence[int]
) -> bool:
    """Whether the two layouts undo the permutation; axes of length 1 may go anywhere."""
    before = [(axis.axis, axis.size, axis.unit) for axis in _long_axes(source)]
    after = [(permutation[axis.axis], axis.size, axis.unit) for axis in _long_axes(target)]
    return before == after and source.size_bytes == target.size_bytes


def _long_axes(spec: TensorSpec) -> list[MemoryAxis]:
    axes = memory_axes(spec.with_layout(canonical_layout(spec)))
    return [axis for axis in axes if axis.size > 1]
