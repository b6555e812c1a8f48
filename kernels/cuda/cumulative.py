"""Running sums, products and log-sum-exps along an axis.

Idea: a block goes along one row, a chunk of one element per thread at a time; the chunk is scanned
in shared memory and carried on. Where there are many rows side by side, or they are short, one
thread goes along each. Moves: x once, y once. All architectures, all dtypes but float8.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.kernels.cuda.lanes import LANES
from torch2rt.kernels.cuda.operands import VALUES
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.strided import Axis, constants, walk_function

THREADS = 256
# Elements that a thread with a row of its own loads before it stores any.
AHEAD = 8
_OPS = {"sum": "Sum", "prod": "Product", "logsumexp": "LogSumExp"}

_LOG_SUM_EXP = r"""
struct LogSumExp {
    static T2R_MEMBER A of(A a, A b) {
        const A larger = nan_max(a, b);
        // Two infinities of one sign have no difference.
        if (larger != larger || t2r_isinf(larger)) return larger;
        return larger + log1p(exp(nan_min(a, b) - larger));
    }
};
"""

_SEQUENTIAL = r"""
extern "C" __global__ void __launch_bounds__(THREADS) cumulative(const X* x, X* y, u64 rows) {
    const INDEX row = (INDEX)blockIdx.x * THREADS + threadIdx.x;
    t2r_wait();
    if (row >= rows) return;
    const auto o = at(row);
    A total = 0;
    for (INDEX first = 0; first < LENGTH; first += AHEAD) {
        A values[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (first + j < LENGTH) values[j] = (A)widened(x[o.x + (first + j) * XS]);
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (first + j < LENGTH) {
                total = first + j == 0 ? values[j] : Op::of(total, values[j]);
                y[o.y + (first + j) * YS] = Narrow<X>::of(total);
            }
    }
}
"""

_SCAN = r"""
extern "C" __global__ void __launch_bounds__(THREADS) cumulative(const X* x, X* y, u64 rows) {
    __shared__ A scanned[2][THREADS];
    const auto o = at(blockIdx.x);
    const int thread = threadIdx.x;
    t2r_wait();
    A carry = 0;
    for (INDEX first = 0; first < LENGTH; first += THREADS) {
        const INDEX i = first + thread;
        A total = i < LENGTH ? (A)widened(x[o.x + i * XS]) : (A)0;
        int side = 0;
        for (int step = 1; step < THREADS; step *= 2, side ^= 1) {
            scanned[side][thread] = total;
            __syncthreads();
            if (thread >= step) total = Op::of(scanned[side][thread - step], total);
        }
        if (first > 0) total = Op::of(carry, total);
        if (i < LENGTH) y[o.y + i * YS] = Narrow<X>::of(total);
        if (thread == THREADS - 1) scanned[side][0] = total;
        __syncthreads();
        carry = scanned[side][0];
        __syncthreads();
    }
}
"""


@dataclass(frozen=True)
class CumulativeProblem:
    """``rows`` is the walk over the other axes, strides of x and y; ``strides`` of the axis."""

    mode: str
    x_type: str
    accumulator: str
    rows: tuple[Axis, ...]
    length: int
    strides: tuple[int, int]
    is_sequential: bool
    index: str = "unsigned"


def cumulative_source(problem: CumulativeProblem) -> str:
    """Source of ``cumulative(x, y, rows)``: a thread per row if sequential, else a block."""
    x_stride, y_stride = problem.strides
    return "".join([
        PRELUDE, VALUES, LANES,
        f"typedef {problem.x_type} X;\ntypedef {problem.accumulator} A;\n"
        f"typedef {problem.index} INDEX;\n",
        constants(THREADS=THREADS, AHEAD=AHEAD),
        f"constexpr INDEX LENGTH = {problem.length}u, XS = {x_stride}u, YS = {y_stride}u;\n",
        _LOG_SUM_EXP if problem.mode == "logsumexp" else "", f"typedef {_OPS[problem.mode]} Op;\n",
        walk_function("at", problem.rows, ("x", "y"), problem.index),
        _SEQUENTIAL if problem.is_sequential else _SCAN,
    ])
