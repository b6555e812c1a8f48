"""Softmax and its logarithm by our kernel, along any axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import (
    accumulator_type,
    epilogue_refusal,
    first_overwritten,
    image_or_plain_choices,
    lanes_of_warp,
    walk,
)
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I64, KernelPrepared, Launch, Out
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.softmax import SoftmaxProblem, softmax_source
from torch2rt.kernels.cuda.strided import Axis, count, index_type, merge_axes, vector_size
from torch2rt.layers.softmax import Softmax

# Values of a row that a lane of a warp holds at most; longer rows take a block.
_HELD_BY_WARP = 32
_THREADS, _BLOCK = 128, 256


class WalkSoftmax(Tactic):
    """Rows in registers of a warp or a block; columns by blocks."""

    name: ClassVar[str] = "softmax.cuda.walk"
    kinds: ClassVar[tuple[str, ...]] = ("softmax",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats of 16 to 64 bits."""
        if spec.epilogue is not None:
            return Refusal("an epilogue")
        return epilogue_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Images of four or five axes in both layouts."""
        return image_or_plain_choices(spec)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Always: strides are constants of the source."""
        return True

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        problem = softmax_problem(spec, current_device().multiprocessors)
        kernel = cpp_kernel(weights, "softmax", softmax_source(problem))
        others = count(problem.others)
        if problem.is_row:
            block = (problem.threads, 1, 1)
            blocks = -(-others // (problem.threads // problem.lanes[0]))
        else:
            block = (*problem.lanes, 1)
            blocks = -(-others // (problem.lanes[0] * problem.vector))
        arguments = [operand(spec, weights, 0), Out(0), I64(others)]
        launch = Launch(kernel, (blocks, 1, 1), block, arguments, overlaps=True)
        return KernelPrepared([launch], may_overwrite=first_overwritten(spec))


def softmax_problem(spec: LayerSpec, multiprocessors: int) -> SoftmaxProblem:
    """Rows where the axis is innermost, else columns."""
    kind = spec.kind
    if not isinstance(kind, Softmax):
        raise Unprepared(f"{kind.name} is not a softmax")
    x, y = spec.inputs[0], spec.outputs[0]
    others = merge_axes(
        walk((axis for axis in x.memory_order if axis != kind.axis), x.shape, x.strides, y.strides)
    )
    axis = Axis(x.shape[kind.axis], (x.strides[kind.axis], y.strides[kind.axis]))
    is_row = axis.strides == (1, 1) or not others or axis.size == 1
    if is_row:
        vector = vector_size(axis, others, x.dtype.itemsize_bytes, 2)
        lanes, threads = _lanes_of_row(axis.size // vector, vector, count(others), multiprocessors)
    else:
        vector = vector_size(others[-1], (*others[:-1], axis), x.dtype.itemsize_bytes, 2)
        lanes = _lanes_of_columns(count(others) // vector, axis.size, multiprocessors)
        threads = lanes[0] * lanes[1]
    return SoftmaxProblem(
        c_type(x.dtype), accumulator_type(x.dtype), tuple(others), axis.size,
        (axis.strides[0], axis.strides[1]), kind.is_log, is_row, vector, lanes, threads,
        index_type([*others, axis]),
    )


def _lanes_of_row(
    vectors: int, vector: int, rows: int, multiprocessors: int
) -> tuple[tuple[int, int], int]:
    """Lanes of a row and threads of the block: part of a warp, a warp, or the block."""
    lanes = lanes_of_warp(vectors, rows, multiprocessors)
    is_long = vectors * vector > 32 * _HELD_BY_WARP
    if is_long or (rows < multiprocessors and vectors > 64):
        lanes = 128 if vectors <= 512 else 256 if vectors <= 2048 else 1024
        return (lanes, 1), lanes
    return (lanes, 1), _THREADS


def _lanes_of_columns(columns: int, length: int, multiprocessors: int) -> tuple[int, int]:
    """TX columns by TY parts: wide when there are many columns, else deep."""
    across = 32 if columns >= 32 * multiprocessors else 8
    while across > 1 and across >= 2 * columns:
        across //= 2
    down = 1
    while across * down < _BLOCK and length >= 4 * down:
        down *= 2
    return (max(across, 64 // down), down)
