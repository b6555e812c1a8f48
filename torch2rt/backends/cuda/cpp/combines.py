"""Scatter with a reduction and adding index_put: one kernel, described by lines and entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.moves import flat_launch, overwritable
from torch2rt.backends.cuda.launch import I32, Argument, KernelPrepared, Out, Work
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal, Weights
from torch2rt.kernels.cuda import combine
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.network.dtype import DType

_MAX_OWNERS = 128
MAX_ENTRIES = 65536  # a line is read in order


@dataclass(frozen=True, slots=True)
class LineAxis:
    """An axis of lines; entries exist only at indices below ``limit``."""

    size: int
    limit: int
    x: int
    out: int
    values: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EntryAxis:
    """An axis of the entries of a line: its size and strides."""

    size: int
    values: int
    indices: tuple[int, ...]


def combine_refusal(spec: LayerSpec, entries: int) -> Refusal | None:
    """Dtypes that add up, and lines that are not too long."""
    dtype = spec.outputs[0].dtype
    if dtype in (DType.BOOL, DType.FLOAT8_E4M3):
        return Refusal(f"{dtype.value} does not combine")
    if entries > MAX_ENTRIES:
        return Refusal(f"{entries} entries that combine one after the other")
    return None


def combine_prepared(
    spec: LayerSpec, weights: Weights, mode: str, includes_self: bool, *, values: int,
    indices: Sequence[int], axes: Sequence[int], lines: Sequence[LineAxis],
    entries: Sequence[EntryAxis],
) -> KernelPrepared:
    """The launch. ``values`` and ``indices`` are inputs; ``axes`` are indexed by the latter."""
    x, output = spec.inputs[0], spec.outputs[0]
    lines = list(lines) or [LineAxis(1, 1, 0, 0, 0, (0,) * len(indices))]
    entries = list(entries) or [EntryAxis(1, 0, (0,) * len(indices))]
    places = math.prod(x.shape[axis] for axis in axes)
    owners = min(places, _MAX_OWNERS)
    threads = math.prod(line.size for line in lines) * owners
    dtype = c_type(output.dtype)
    sums_bytes = x.element_count * 8
    arguments: list[Argument] = [
        operand(spec, weights, 0), operand(spec, weights, values), Out(0), Work(0),
        Work(sums_bytes), *(operand(spec, weights, index) for index in indices),
    ]
    numbers = [threads, owners, places, math.prod(entry.size for entry in entries)]
    numbers += [int(includes_self), *_columns(lines, entries)]
    numbers += [x.shape[axis] for axis in axes]
    for tensor in (x, output):
        numbers += [tensor.strides[axis] for axis in axes]
    source = combine.combine_source(
        dtype, mode, len(lines), len(entries),
        [c_type(spec.inputs[index].dtype) for index in indices],
    )
    launch = flat_launch(
        weights, combine.NAME, source, combine.THREADS, threads,
        [*arguments, *map(I32, numbers)],
    )
    return KernelPrepared(
        [launch], workspace_bytes=sums_bytes + x.element_count * 4,
        may_overwrite=overwritable(spec),
    )


def _columns(lines: Sequence[LineAxis], entries: Sequence[EntryAxis]) -> list[int]:
    count = len(lines[0].indices)
    columns = [
        [line.size for line in lines], [line.limit for line in lines],
        [line.x for line in lines], [line.out for line in lines],
        [line.values for line in lines],
        *([line.indices[k] for line in lines] for k in range(count)),
        [entry.size for entry in entries], [entry.values for entry in entries],
        *([entry.indices[k] for entry in entries] for k in range(count)),
    ]
    return [number for column in columns for number in column]
