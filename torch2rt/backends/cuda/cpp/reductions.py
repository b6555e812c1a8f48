"""From the spec of a reduction to the problem of our kernels: walks, lanes, splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch2rt.backends.cuda.cpp.walks import accumulator_type, kept_walk, make_epilogue
from torch2rt.backends.spec import LayerSpec
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.reduce import ReduceProblem
from torch2rt.kernels.cuda.strided import Axis, count, index_type, merge_axes, vector_size

# Threads that keep a multiprocessor busy, and threads of a block of columns.
_BUSY, _BLOCK = 1024, 256
_MAX_SPLITS = 512


def reduce_problem(
    spec: LayerSpec, mode: str, axes: Sequence[int], keepdim: bool, multiprocessors: int
) -> ReduceProblem:
    """Walks over kept and reduced axes in the order of x's memory."""
    x, y = spec.inputs[0], spec.outputs[0]
    kept = kept_walk(spec, axes, keepdim)
    reduced = merge_axes(
        Axis(x.shape[axis], (x.strides[axis],)) for axis in x.memory_order if axis in axes
    )
    item = x.dtype.itemsize_bytes
    is_row = not kept or (bool(reduced) and reduced[-1].strides[0] < kept[-1].strides[0])
    vector = 1
    if is_row and reduced:
        vector = vector_size(reduced[-1], (*kept, *reduced[:-1]), item, 1)
    elif not is_row:
        padded = [Axis(axis.size, (axis.strides[0], 0)) for axis in reduced]
        vector = vector_size(kept[-1], (*kept[:-1], *padded), item, 2)
    extras = len(spec.inputs) - spec.main_count
    steps = [tuple(axis.strides[2 + i] for axis in kept) or (0,) for i in range(extras)]
    accumulator = "i32" if mode in ("any", "all") else accumulator_type(x.dtype)
    problem = ReduceProblem(
        mode, c_type(x.dtype), c_type(y.dtype), accumulator, tuple(kept), tuple(reduced), is_row,
        vector, (32, 1), 1, make_epilogue(spec, steps, accumulator), index_type(kept, reduced),
    )
    return _with_rows(problem, multiprocessors) if is_row else _with_columns(
        problem, multiprocessors
    )


def _with_rows(problem: ReduceProblem, multiprocessors: int) -> ReduceProblem:
    """Lanes per output by the length of the row; long rows are split when there are few."""
    length = count(problem.reduced) // problem.vector
    lanes = 1
    while lanes < 32 and lanes * 2 < length:
        lanes *= 2
    if length > 512 or (length > 128 and problem.outputs < 4 * multiprocessors):
        lanes = _BLOCK
    return _with_splits(replace(problem, lanes=(lanes, 1)), length, lanes, multiprocessors)


def _with_columns(problem: ReduceProblem, multiprocessors: int) -> ReduceProblem:
    """TX vectors of outputs by TY parts of the reduction, as many threads as there is work for."""
    length, columns = count(problem.reduced), problem.outputs // problem.vector
    across = 32 if columns >= 32 * multiprocessors else 8
    while across > 1 and across >= 2 * columns:
        across //= 2
    down = 1
    while across * down < _BLOCK and (
        length >= 16 * down
        or (length >= 4 * down and columns * down < _BUSY * multiprocessors)
    ):
        down *= 2
    while across * down < 64:
        across *= 2
    return _with_splits(replace(problem, lanes=(across, down)), length, down, multiprocessors)


def _with_splits(
    problem: ReduceProblem, length: int, share: int, multiprocessors: int
) -> ReduceProblem:
    """More blocks when these would leave multiprocessors idle over long loops."""
    blocks = problem.blocks[0]
    loops = length // share
    if blocks >= multiprocessors or loops < 32:
        return problem
    splits = min(-(-2 * multiprocessors // blocks), loops // 8, _MAX_SPLITS)
    # No empty parts.
    chunk = -(-length // splits)
    return replace(problem, splits=-(-length // chunk))
