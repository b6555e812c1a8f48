"""Take, gather and advanced indexing, reading and writing, as one walk over several operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.moves import (
    axis_arguments,
    flat_launch,
    in_vectors,
    missing_pattern,
    ordered,
    vector_items,
)
from torch2rt.backends.cuda.launch import I32, I64, Argument, Launch, Out
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Weights
from torch2rt.kernels.cuda import gather as gather_kernel
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.strided import Axis, count, merge_axes


@dataclass(frozen=True, slots=True)
class Lookup:
    """An index tensor: which input it is, and the stride and length of the axis it indexes."""

    input: int
    stride: int
    length: int


def lookup_launches(
    spec: LayerSpec, weights: Weights, axes: Sequence[Axis], lookups: Sequence[Lookup], *,
    source: int = 0, is_write: bool = False,
) -> list[Launch]:
    """One launch with a thread per vector, none where nothing is moved.

    Strides of ``axes``: to, from, then one per index tensor. The indexed axis is the input's, or
    with ``is_write`` the output's.
    """
    if count(axes) == 0:
        return []
    target = spec.outputs[0]
    item = target.dtype.itemsize_bytes
    walk = ordered(axes) if not is_write else _writes(axes)
    indexed = [lookup.stride for lookup in lookups]
    # Within a vector no index may change.
    is_along = any(walk[-1].strides[2:]) or walk[-1].strides[:2] != (1, 1)
    vector = 1 if is_along else vector_items(walk, item, indexed)
    walk = list(in_vectors(walk, vector))
    arguments: list[Argument] = [operand(spec, weights, source), Out(0)]
    arguments += [operand(spec, weights, lookup.input) for lookup in lookups]
    arguments += [I32(count(walk)), I64(missing_pattern(target.dtype))]
    for lookup in lookups:
        arguments += [I32(lookup.stride // vector), I32(lookup.length)]
    operands = (1, 0, *range(2, 2 + len(lookups)))
    arguments += axis_arguments(walk, len(walk), operands)
    types = [c_type(spec.inputs[lookup.input].dtype) for lookup in lookups]
    code = gather_kernel.gather_source(item * vector, len(walk), types, is_write)
    return [flat_launch(
        weights, gather_kernel.NAME, code, gather_kernel.THREADS, count(walk), arguments
    )]


def _writes(axes: Sequence[Axis]) -> list[Axis]:
    """Indexed axes (which have no stride in the target) outside, then as memory has them."""
    kept = sorted(axes, key=lambda axis: (axis.strides[0] != 0, -axis.strides[0]))
    return merge_axes(kept) or [Axis(1, (0,) * len(axes[0].strides) if axes else (0, 0))]


@dataclass(frozen=True, slots=True)
class ResultAxis:
    """An axis of the result of indexing: its stride in the indexed tensor and the index tensors."""

    size: int
    stride: int
    walks: tuple[int, ...]
    is_indexed: bool


def indexed_axes(
    x: TensorSpec, axes: Sequence[int], indices: Sequence[TensorSpec]
) -> list[ResultAxis]:
    """The axes of the result of advanced indexing, as numpy and torch order them.

    The broadcast axes of the index tensors stand where the indexed axes were if those are
    neighbours, else in front.
    """
    rank = max(index.rank for index in indices)
    columns = [broadcast_strides(index, rank) for index in indices]
    together = []
    for position in range(rank):
        size = max(_size(index, rank, position) for index in indices)
        walks = tuple(column[position] for column in columns)
        together.append(ResultAxis(size, 0, walks, is_indexed=True))
    none = (0,) * len(indices)
    kept = [
        ResultAxis(x.shape[axis], x.strides[axis], none, is_indexed=False)
        for axis in range(x.rank) if axis not in axes
    ]
    is_one_block = axes[-1] - axes[0] + 1 == len(axes)
    front = axes[0] if is_one_block else 0
    return [*kept[:front], *together, *kept[front:]]


def broadcast_strides(tensor: TensorSpec, rank: int) -> list[int]:
    """Strides of a tensor along the last ``rank`` axes of what it broadcasts to."""
    front = rank - tensor.rank
    return [0] * front + [
        stride if size > 1 else 0
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    ]


def _size(tensor: TensorSpec, rank: int, position: int) -> int:
    at = position - (rank - tensor.rank)
    return tensor.shape[at] if at >= 0 else 1
