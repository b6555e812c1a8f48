"""From the spec of a pooling to our pooling kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import (
    accumulator_type,
    extra_arguments,
    extra_strides,
    make_epilogue,
)
from torch2rt.backends.cuda.launch import I64, KernelPrepared, Launch, Out
from torch2rt.backends.spec import LayerSpec, Layout, TensorSpec
from torch2rt.backends.tactic import Prepared, Weights
from torch2rt.kernels.cuda.pool import THREADS, PoolProblem, Three, Window, pool_source
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.strided import Axis, index_type, vector_size

# Threads of one multiprocessor; tiles are made only when every one has work several times over.
_RESIDENT = 2048


def pool_problem(
    spec: LayerSpec, mode: str, window: Window | None, multiprocessors: int
) -> PoolProblem:
    """The problem for a pooling of [n, c, *spatial] in the layout that the spec says."""
    x, y = spec.inputs[0], spec.outputs[0]
    is_channels_last = x.layout is Layout.CHANNELS_LAST
    strides = [_five(tensor.strides) for tensor in (x, y)]
    # Vectors lie along the last axis of an extra operand.
    extras = [(s[0], *s[2:], s[1]) for s in map(_five, extra_strides(spec))]
    read, written = (
        [Axis(size, (a, b)) for size, a, b in zip(_sizes(tensor), *strides, strict=True)]
        for tensor in (x, y)
    )
    is_byte = x.dtype.itemsize_bytes == 1 and mode == "max"
    accumulator = "i32" if is_byte else accumulator_type(x.dtype)
    vector = 1
    if is_channels_last:
        around = (read[0], *read[2:], *written[2:])
        vector = vector_size(read[1], around, x.dtype.itemsize_bytes, 2)
    problem = PoolProblem(
        mode, c_type(x.dtype), c_type(y.dtype), accumulator, x.shape[1],
        _three(x.shape[2:]), _three(y.shape[2:]), strides[0], strides[1], window,
        is_channels_last, vector, (1, 1), make_epilogue(spec, extras, accumulator),
        max(index_type(read), index_type(written), key=len),
    )
    tile = _tile(problem, x.shape[0], multiprocessors)
    return replace(problem, tile=tile)


def prepare_pool(spec: LayerSpec, weights: Weights, problem: PoolProblem) -> Prepared:
    """One launch."""
    tiles = problem.tiles(spec.inputs[0].shape[0])
    kernel = cpp_kernel(weights, "pool", pool_source(problem))
    arguments = [operand(spec, weights, 0), Out(0), *extra_arguments(spec, weights), I64(tiles)]
    return KernelPrepared([
        Launch(kernel, (-(-tiles // THREADS), 1, 1), (THREADS, 1, 1), arguments, overlaps=True)
    ])


def _tile(problem: PoolProblem, batch: int, multiprocessors: int) -> tuple[int, int]:
    """Outputs per thread: several where windows overlap and there are more than enough threads."""
    window = problem.window
    if window is None or window.loads > 25 or window.dilation != (1, 1, 1):
        return (1, 1)
    if problem.tiles(batch) < 4 * _RESIDENT * multiprocessors or window.kernel[0] > 1:
        return (1, 1)
    return (
        2 if window.kernel[1] > window.stride[1] and problem.out_sizes[1] > 1 else 1,
        2 if window.kernel[2] > window.stride[2] and problem.out_sizes[2] > 1 else 1,
    )


def _five(strides: Sequence[int]) -> tuple[int, ...]:
    """Strides along n, c, d, h, w of a tensor with one to three spatial axes."""
    return (*strides[:2], *(0,) * (5 - len(strides)), *strides[2:])


def _sizes(tensor: TensorSpec) -> tuple[int, ...]:
    return (*tensor.shape[:2], *_three(tensor.shape[2:]))


def _three(sizes: Sequence[int]) -> Three:
    d, h, w = (*(1,) * (3 - len(sizes)), *sizes)
    return d, h, w
