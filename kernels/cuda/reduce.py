"""Reductions over any axes: sum, mean, max, min, prod, any, all.

Idea: the axes of x are merged into a walk over what is kept and one over what is reduced. Where
the innermost axis is reduced ("rows"), some lanes share an output and combine by shuffles. Where
it is kept ("columns"), a block of TX x TY threads takes TX vectors of outputs and TY parts of the
reduction and combines them in shared memory. Few outputs over much data are split over blocks:
partial results go to the workspace and a second kernel combines them. Moves: x once. All
architectures, all dtypes but float8.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.kernels.cuda.lanes import LANES
from torch2rt.kernels.cuda.operands import VALUES, Epilogue
from torch2rt.kernels.cuda.pool import lowest
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.strided import Axis, constants, count, walk_function

FINISH_THREADS = 128
_OPS = {
    "sum": "Sum", "mean": "Sum", "max": "Larger", "min": "Smaller", "prod": "Product",
    "any": "Any", "all": "All",
}
_HIGHEST = {"i64": "(i64)~(1ull << 63)", "double": "(double)t2r_infinity()"}

_ROWS = r"""
extern "C" __global__ void __launch_bounds__(THREADS)
reduce(const X* x, @OUT@* y@EXTRAS@, u64 outputs) {
    constexpr int PER_BLOCK = THREADS / COUNT;
    const INDEX out = (INDEX)blockIdx.x * PER_BLOCK + threadIdx.x / COUNT;
    const INDEX lane = threadIdx.x % COUNT;
    const bool is_live = out < outputs;
    const auto k = kept(is_live ? out : 0);
    const INDEX first = (INDEX)blockIdx.y * CHUNK;
    const INDEX last = min(first + CHUNK, LENGTH);
    t2r_wait();
    A sums[V];
#pragma unroll
    for (int j = 0; j < V; j++) sums[j] = IDENTITY;
#pragma unroll 4
    for (INDEX r = first + lane; r < last; r += COUNT) add<V>(sums, x + k.x + reduced(r).x);
#pragma unroll
    for (int j = 1; j < V; j++) sums[0] = Op::of(sums[0], sums[j]);
    __shared__ A scratch[32];
    A value[1] = {reduce_lanes<Op, COUNT>(sums[0], scratch)};
    if (lane != 0 || !is_live) return;
    @STORE@
}
"""

_COLUMNS = r"""
extern "C" __global__ void __launch_bounds__(TX * TY)
reduce(const X* x, @OUT@* y@EXTRAS@, u64 outputs) {
    const INDEX out = (INDEX)blockIdx.x * TX + threadIdx.x;
    const bool is_live = out * V < outputs;
    const auto k = kept(is_live ? out : 0);
    const INDEX first = (INDEX)blockIdx.y * CHUNK;
    const INDEX last = min(first + CHUNK, LENGTH);
    t2r_wait();
    A value[V];
#pragma unroll
    for (int j = 0; j < V; j++) value[j] = IDENTITY;
    if (is_live) {
#pragma unroll 4
        for (INDEX r = first + threadIdx.y; r < last; r += TY)
            add<V>(value, x + k.x + reduced(r).x);
    }
    if (TY > 1) {
        __shared__ A scratch[V][TY][TX];
#pragma unroll
        for (int step = TY / 2; step > 0; step /= 2) {
            if (threadIdx.y >= step && threadIdx.y < 2 * step)
#pragma unroll
                for (int j = 0; j < V; j++) scratch[j][threadIdx.y][threadIdx.x] = value[j];
            __syncthreads();
            if (threadIdx.y < step)
#pragma unroll
                for (int j = 0; j < V; j++)
                    value[j] = Op::of(value[j], scratch[j][threadIdx.y + step][threadIdx.x]);
        }
    }
    if (threadIdx.y != 0 || !is_live) return;
    @STORE@
}
"""

_FINISH = r"""
extern "C" __global__ void __launch_bounds__(128)
reduce_finish(const A* partial, Y* y@EXTRAS@, u64 outputs, int splits) {
    const INDEX out = (INDEX)blockIdx.x * 4 + threadIdx.x / 32;
    if (out >= outputs) return;
    const auto k = kept(out);
    t2r_wait();
    A sum = IDENTITY;
    for (int split = threadIdx.x % 32; split < splits; split += 32)
        sum = Op::of(sum, partial[(INDEX)split * outputs + out]);
    A value[1] = {reduce_warp<Op, 32>(sum)};
    if (threadIdx.x % 32 != 0) return;
    @STORE@
}
"""

_ADD = r"""
template <int N> T2R_DEVICE void add(A (&sums)[N], const X* address) {
    const Vec<X, N> stored = load_vec<X, N>(address);
#pragma unroll
    for (int j = 0; j < N; j++) sums[j] = Op::of(sums[j], (A)(@VALUE@));
}
"""


@dataclass(frozen=True)
class ReduceProblem:
    """A reduction as two walks.

    ``kept`` has strides of x, y and the epilogue's operands, ``reduced`` those of x. ``vector``
    lies along the innermost axis of reduced if ``is_row``, else of kept. ``lanes``: those that
    share an output, or (TX, TY). ``splits`` blocks share the reduction of one output.
    """

    mode: str
    x_type: str
    y_type: str
    accumulator: str
    kept: tuple[Axis, ...]
    reduced: tuple[Axis, ...]
    is_row: bool
    vector: int
    lanes: tuple[int, int]
    splits: int
    epilogue: Epilogue
    index: str

    @property
    def outputs(self) -> int:
        """Number of results."""
        total: int = count(self.kept)
        return total

    @property
    def threads(self) -> tuple[int, int, int]:
        """The block."""
        return (*self.lanes, 1) if not self.is_row else (max(self.lanes[0], 128), 1, 1)

    @property
    def blocks(self) -> tuple[int, int, int]:
        """The grid."""
        share = self.threads[0]
        share = share // self.lanes[0] if self.is_row else share * self.vector
        return (-(-self.outputs // share), self.splits, 1)


def reduce_source(problem: ReduceProblem) -> str:
    """Source of ``reduce(x, y or partial, extras..., outputs)``; no extras when split."""
    text = _ROWS if problem.is_row else _COLUMNS
    is_split = problem.splits > 1
    width = 1 if problem.is_row else problem.vector
    partial = (f"store_values<A, A, {width}>(y + (INDEX)blockIdx.y * outputs + out * {width},"
               " value);")
    text = text.replace("@OUT@", "A" if is_split else "Y")
    text = text.replace("@EXTRAS@", "" if is_split else problem.epilogue.parameters())
    text = text.replace("@STORE@", partial if is_split else _store(problem, width))
    return _definitions(problem, width) + text


def finish_source(problem: ReduceProblem) -> str:
    """Source of ``reduce_finish(partial, y, extras..., outputs, splits)``, an output a warp."""
    text = _FINISH.replace("@EXTRAS@", problem.epilogue.parameters())
    return _definitions(problem, 1) + text.replace("@STORE@", _store(problem, 1))


def _definitions(problem: ReduceProblem, width: int) -> str:
    length = count(problem.reduced) // (problem.vector if problem.is_row else 1)
    chunk = -(-length // problem.splits)
    value = "widened(stored[j])" + (" != 0" if problem.mode in ("any", "all") else "")
    operands = ("x", "y", *(f"e{i}" for i in range(1, len(problem.epilogue.extras) + 1)))
    return "".join([
        PRELUDE, VALUES, LANES,
        f"typedef {problem.x_type} X;\ntypedef {problem.y_type} Y;\n"
        f"typedef {problem.accumulator} A;\ntypedef {problem.index} INDEX;\n"
        f"typedef {_OPS[problem.mode]} Op;\n#define IDENTITY {_identity(problem)}\n",
        f"constexpr INDEX LENGTH = {length}u, CHUNK = {chunk}u;\n",
        constants(V=problem.vector, THREADS=problem.threads[0], COUNT=problem.lanes[0],
                  TX=problem.lanes[0], TY=problem.lanes[1]),
        walk_function("kept", problem.kept, operands, problem.index, width),
        walk_function("reduced", problem.reduced, ("x",), problem.index,
                      problem.vector if problem.is_row else 1),
        _ADD.replace("@VALUE@", value), problem.epilogue.function(problem.accumulator),
    ])


def _identity(problem: ReduceProblem) -> str:
    kind = problem.accumulator
    if problem.mode == "max":
        return str(lowest(kind))
    if problem.mode == "min":
        return _HIGHEST.get(kind, "t2r_infinity()")
    return "(A)1" if problem.mode in ("prod", "all") else "(A)0"


def _store(problem: ReduceProblem, width: int) -> str:
    lines = []
    if problem.mode == "mean":
        lines.append(f"for (int j = 0; j < {width}; j++)"
                     f" value[j] *= (A)1 / (A){count(problem.reduced)};")
    offsets = [f"k.e{i}" for i in range(1, len(problem.epilogue.extras) + 1)]
    lines.append(problem.epilogue.apply("value", offsets, width))
    lines.append(f"store_values<{problem.epilogue.result}, Y, {width}>(y + k.y, stored);")
    return "\n    ".join(lines)
