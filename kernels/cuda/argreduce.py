"""Index of the largest or smallest value along an axis, the first of equal ones.

Idea: some lanes share an output, each looks through every so many elements; pairs of value and
index are then compared, so that a NaN beats all and a lower index beats an equal value. Where
there are more than enough outputs side by side, one lane has one to itself. Moves: x once. All
architectures, all dtypes but float8.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.kernels.cuda.operands import VALUES
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.strided import Axis, constants, walk_function

_KERNEL = r"""
struct Best { A value; int index; };

// Whether b beats a. An index of -1 is nothing yet.
T2R_DEVICE bool is_better(const Best& b, const Best& a) {
    if (b.index < 0) return false;
    if (a.index < 0) return true;
    const bool is_nan = b.value != b.value, was_nan = a.value != a.value;
    if (is_nan != was_nan) return is_nan;
    if (is_nan || b.value == a.value) return b.index < a.index;
    return b.value @BEATS@ a.value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
argreduce(const X* x, i64* y, u64 outputs) {
    __shared__ Best scratch[32];
    const INDEX out = (INDEX)blockIdx.x * (THREADS / COUNT) + threadIdx.x / COUNT;
    const bool is_live = out < outputs;
    const auto o = at(is_live ? out : 0);
    t2r_wait();
    Best best = {(A)0, -1};
#pragma unroll 8
    for (int i = threadIdx.x % COUNT; i < LENGTH; i += COUNT) {
        const Best other = {(A)widened(x[o.x + (INDEX)i * XS]), i};
        if (is_better(other, best)) best = other;
    }
#pragma unroll
    for (int step = (COUNT < 32 ? COUNT : 32) / 2; step > 0; step /= 2) {
        const Best other = {__shfl_xor_sync(0xffffffffu, best.value, step),
                            __shfl_xor_sync(0xffffffffu, best.index, step)};
        if (is_better(other, best)) best = other;
    }
    if (COUNT > 32) {
        if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
        __syncthreads();
        if (threadIdx.x == 0)
            for (int warp = 1; warp < COUNT / 32; warp++)
                if (is_better(scratch[warp], best)) best = scratch[warp];
    }
    if (is_live && threadIdx.x % COUNT == 0) y[o.y] = best.index;
}
"""


@dataclass(frozen=True)
class ArgReduceProblem:
    """``outputs`` is the walk over what is kept, strides of x and y.

    The axis has ``length`` elements, ``stride`` apart. ``lanes`` share an output: a power of two
    up to 32, or the whole block of ``threads``.
    """

    mode: str
    x_type: str
    accumulator: str
    outputs: tuple[Axis, ...]
    length: int
    stride: int
    lanes: int
    threads: int
    index: str = "unsigned"


def argreduce_source(problem: ArgReduceProblem) -> str:
    """Source of ``argreduce(x, y, outputs)``."""
    return "".join([
        PRELUDE, VALUES,
        f"typedef {problem.x_type} X;\ntypedef {problem.accumulator} A;\n"
        f"typedef {problem.index} INDEX;\n",
        constants(THREADS=problem.threads, COUNT=problem.lanes, LENGTH=problem.length),
        f"constexpr INDEX XS = {problem.stride}u;\n",
        walk_function("at", problem.outputs, ("x", "y"), problem.index),
        _KERNEL.replace("@BEATS@", ">" if problem.mode == "max" else "<"),
    ])
