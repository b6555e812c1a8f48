"""Tensors in each other's memory: the order of bytes in every layout; steps that run nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import Layout, TensorSpec
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
