"""Softmax and its logarithm along any axis.

Idea: where the axis is innermost ("rows"), the lanes of a warp or a block share a row and hold it
in registers; rows too long for that are read three times, from the caches mostly. Elsewhere
("columns"), a block of TX x TY threads takes TX vectors of neighbouring columns in TY parts each
and reads them three times. The maximum comes first, then the sum: exact also for infinities.
Moves: x once, y once. All architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.kernels.cuda.lanes import LANES
from torch2rt.kernels.cuda.operands import VALUES
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.strided import Axis, constants, walk_function

# Values of a row that a lane may hold.
MAX_HELD = 64

_FUNCTIONS = r"""
T2R_DEVICE A exponential(A x) { return @EXP@(x); }
T2R_DEVICE A result_of(A x, A largest, A sum) {
    if (IS_LOG) return x - largest - sum;
    return exponential(x - largest) * sum;
}
// What `result_of` takes of the sum: its logarithm, or what to multiply with.
T2R_DEVICE A finish_sum(A sum) { return IS_LOG ? log(sum) : (A)1 / sum; }
"""

_ROWS = r"""
T2R_DEVICE bool is_inside(int k) {
    return (k + 1) * COUNT <= VECTORS || k * COUNT + (int)threadIdx.x % COUNT < VECTORS;
}
T2R_DEVICE INDEX place(int k) { return ((INDEX)k * COUNT + threadIdx.x % COUNT) * V; }

extern "C" __global__ void __launch_bounds__(THREADS)
softmax(const X* x, X* y, u64 rows) {
    __shared__ A scratch[32];
    const INDEX row = (INDEX)blockIdx.x * (THREADS / COUNT) + threadIdx.x / COUNT;
    const bool is_live = row < rows;
    const auto o = at(is_live ? row : 0);
    t2r_wait();
    A largest = -(A)t2r_infinity();
    @HOLD@
    @EACH@
#pragma unroll
        for (int j = 0; j < V; j++) largest = nan_max(largest, now[j]);
    }
    largest = reduce_lanes<Larger, COUNT>(largest, scratch);
    A sum = 0;
    @EACH@
#pragma unroll
        for (int j = 0; j < V; j++) {
            const A e = exponential(now[j] - largest);
            sum += e;
            @KEEP@
        }
    }
    sum = finish_sum(reduce_lanes<Sum, COUNT>(sum, scratch));
    if (!is_live) return;
    @EACH@
        A result[V];
#pragma unroll
        for (int j = 0; j < V; j++) result[j] = @RESULT@;
        store_values<A, X, V>(y + o.y + place(k), result);
    }
}
"""

_HOLD = r"""
    A values[HELD][V];
#pragma unroll
    for (int k = 0; k < HELD; k++)
        if (is_inside(k)) load_values<A, X, V>(values[k], x + o.x + place(k));
"""

_EACH_HELD = r"""
#pragma unroll
    for (int k = 0; k < HELD; k++) if (is_inside(k)) {
        A (&now)[V] = values[k];
"""

_EACH_READ = r"""
#pragma unroll 2
    for (int k = 0; k * COUNT < VECTORS; k++) if (is_inside(k)) {
        A now[V];
        load_values<A, X, V>(now, x + o.x + place(k));
"""

_COLUMNS = r"""
// Over the TY parts of each column, in every thread.
template <class Op> T2R_DEVICE void reduce_columns(A (&values)[V], A (&scratch)[V][TY][TX]) {
    if (TY == 1) return;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < V; j++) scratch[j][threadIdx.y][threadIdx.x] = values[j];
    for (int step = TY / 2; step > 0; step /= 2) {
        __syncthreads();
        if (threadIdx.y < step)
#pragma unroll
            for (int j = 0; j < V; j++)
                scratch[j][threadIdx.y][threadIdx.x] = Op::of(
                    scratch[j][threadIdx.y][threadIdx.x],
                    scratch[j][threadIdx.y + step][threadIdx.x]);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < V; j++) values[j] = scratch[j][0][threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(TX * TY)
softmax(const X* x, X* y, u64 columns) {
    __shared__ A scratch[V][TY][TX];
    const INDEX column = (INDEX)blockIdx.x * TX + threadIdx.x;
    const bool is_live = column * V < columns;
    const auto o = at(is_live ? column : 0);
    t2r_wait();
    A largest[V], sum[V];
#pragma unroll
    for (int j = 0; j < V; j++) largest[j] = -(A)t2r_infinity(), sum[j] = 0;
#pragma unroll 4
    for (INDEX r = threadIdx.y; r < LENGTH; r += TY) {
        A now[V];
        load_values<A, X, V>(now, x + o.x + r * XS);
#pragma unroll
        for (int j = 0; j < V; j++) largest[j] = nan_max(largest[j], now[j]);
    }
    reduce_columns<Larger>(largest, scratch);
#pragma unroll 4
    for (INDEX r = threadIdx.y; r < LENGTH; r += TY) {
        A now[V];
        load_values<A, X, V>(now, x + o.x + r * XS);
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += exponential(now[j] - largest[j]);
    }
    reduce_columns<Sum>(sum, scratch);
    if (!is_live) return;
#pragma unroll
    for (int j = 0; j < V; j++) sum[j] = finish_sum(sum[j]);
#pragma unroll 4
    for (INDEX r = threadIdx.y; r < LENGTH; r += TY) {
        A now[V];
        load_values<A, X, V>(now, x + o.x + r * XS);
#pragma unroll
        for (int j = 0; j < V; j++) now[j] = result_of(now[j], largest[j], sum[j]);
        store_values<A, X, V>(y + o.y + r * YS, now);
    }
}
"""


@dataclass(frozen=True)
class SoftmaxProblem:
    """A softmax along one axis of ``length``; ``others`` is the walk over the rest of x and y.

    ``strides``: of the axis in x and y. Rows have stride 1 and ``vector`` lies along them; a power
    of two up to 32 of ``lanes`` or a whole block share one. In columns ``vector`` lies along the
    innermost other axis, and ``lanes`` are TX and TY.
    """

    x_type: str
    accumulator: str
    others: tuple[Axis, ...]
    length: int
    strides: tuple[int, int]
    is_log: bool
    is_row: bool
    vector: int
    lanes: tuple[int, int]
    threads: int
    index: str = "unsigned"

    @property
    def held(self) -> int:
        """Vectors of a row per lane; 0 when they are too many to be held."""
        vectors = -(-self.length // self.vector // self.lanes[0])
        return vectors if vectors * self.vector <= MAX_HELD else 0


def softmax_source(problem: SoftmaxProblem) -> str:
    """Source of ``softmax(x, y, rows or columns)``."""
    is_row, held = problem.is_row, problem.held if problem.is_row else 0
    numbers = constants(
        V=problem.vector, THREADS=problem.threads, COUNT=problem.lanes[0], TX=problem.lanes[0],
        TY=problem.lanes[1], HELD=max(1, held), VECTORS=problem.length // problem.vector,
        IS_LOG=int(problem.is_log),
    )
    x_stride, y_stride = problem.strides
    # Exponentials of a row that is held stay in its place.
    is_kept = held > 0 and not problem.is_log
    text = (_ROWS if is_row else _COLUMNS).replace("@HOLD@", _HOLD if held else "")
    text = text.replace("@EACH@", _EACH_HELD if held else _EACH_READ)
    text = text.replace("@KEEP@", "now[j] = e;" if is_kept else "")
    result = "now[j] * sum" if is_kept else "result_of(now[j], largest, sum)"
    text = text.replace("@RESULT@", result)
    exp = "__expf" if problem.x_type in ("f16", "bf16") else "exp"
    return "".join([
        PRELUDE, VALUES, LANES,
        f"typedef {problem.x_type} X;\ntypedef {problem.accumulator} A;\n"
        f"typedef {problem.index} INDEX;\n", numbers,
        f"constexpr INDEX LENGTH = {problem.length}u, XS = {x_stride}u, YS = {y_stride}u;\n",
        walk_function("at", problem.others, ("x", "y"), problem.index,
                      1 if is_row else problem.vector),
        _FUNCTIONS.replace("@EXP@", exp), text,
    ])
