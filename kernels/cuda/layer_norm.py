"""Layer norm and RMS norm over rows.

Idea: the lanes of a warp (or of a block) share a row and hold it in registers: the mean, then the
mean square of the differences, both in float32, then the result. Where the row is short enough,
scale and shift stay in registers too, loaded before the kernel waits for the one ahead of it; a
warp goes from row to row and loads the next one early. Rows too long for registers are read three
times. An epilogue without operands may round the result to 8 bits. Moves: x once, y once. All
architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.kernels.cuda.lanes import LANES
from torch2rt.kernels.cuda.operands import VALUES, Epilogue
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.strided import Axis, constants, walk_function

# Values of a row that a lane may hold, and that it may hold beside scale and shift.
MAX_HELD, MAX_HELD_WITH_AFFINE = 64, 32

_KERNEL = r"""
T2R_DEVICE float inverse_root(float x) { return rsqrtf(x); }
T2R_DEVICE double inverse_root(double x) { return 1.0 / sqrt(x); }

// Vector k of a row that this lane holds; nothing behind the row's end.
T2R_DEVICE bool is_inside(int k) {
    return (k + 1) * COUNT <= VECTORS || k * COUNT + (int)threadIdx.x % COUNT < VECTORS;
}
T2R_DEVICE int place(int k) { return (k * COUNT + (int)threadIdx.x % COUNT) * V; }

T2R_DEVICE void load_row(Vec<X, V> (&row)[HELD], const X* address) {
#pragma unroll
    for (int k = 0; k < HELD; k++)
        if (is_inside(k)) row[k] = load_vec<X, V>(address + place(k));
}

T2R_DEVICE void widen(A (&values)[V], const Vec<X, V>& stored) {
#pragma unroll
    for (int j = 0; j < V; j++) values[j] = (A)widened(stored[j]);
}

template <class T> T2R_DEVICE void load_affine(A (&values)[V], const T* address) {
    load_values<A, T, V>(values, address);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm(const X* x, Y* y@PARAMETERS@, u64 rows) {
    constexpr int PER_BLOCK = THREADS / COUNT;
    __shared__ A scratch[32];
    @KEEP@
    t2r_wait();
    INDEX row = (INDEX)blockIdx.x * PER_BLOCK + threadIdx.x / COUNT;
    const INDEX step = (INDEX)gridDim.x * PER_BLOCK;
    Vec<X, V> next[HELD];
    if (IS_HELD && row < rows) load_row(next, x + at(row).x);
    // Lanes of a warp without a row go along: they take part in the reductions.
    for (INDEX first = row - (threadIdx.x / COUNT) % (COUNT < 32 ? 32 / COUNT : 1); first < rows;
         first += step, row += step) {
        const bool is_live = row < rows;
        const auto o = at(is_live ? row : 0);
        A values[HELD][V];
#pragma unroll
        for (int k = 0; k < HELD; k++) widen(values[k], next[k]);
        if (IS_HELD && row + step < rows) load_row(next, x + at(row + step).x);
        A mean = 0;
        if (IS_CENTERED) {
            A sum = 0;
            @EACH@
#pragma unroll
                for (int j = 0; j < V; j++) sum += now[j];
            }
            mean = reduce_lanes<Sum, COUNT>(sum, scratch) * (A)(1.0 / LENGTH);
        }
        A square = 0;
        @EACH@
#pragma unroll
            for (int j = 0; j < V; j++) square += (now[j] - mean) * (now[j] - mean);
        }
        square = reduce_lanes<Sum, COUNT>(square, scratch);
        const A scale = inverse_root(square * (A)(1.0 / LENGTH) + (A)EPS);
        if (!is_live) continue;
        @EACH@
            A result[V];
#pragma unroll
            for (int j = 0; j < V; j++) result[j] = (now[j] - mean) * scale;
            @AFFINE@
            @STORE@
        }
    }
}
"""

_EACH_HELD = r"""
#pragma unroll
        for (int k = 0; k < HELD; k++) if (is_inside(k)) {
            const A (&now)[V] = values[k];
"""

_EACH_READ = r"""
#pragma unroll 2
        for (int k = 0; k * COUNT < VECTORS; k++) if (is_inside(k)) {
            A now[V];
            load_values<A, X, V>(now, x + o.x + place(k));
"""


@dataclass(frozen=True)
class LayerNormProblem:
    """Rows of ``length`` contiguous elements; ``rows`` is the walk over them, strides of x and y.

    ``lanes`` share a row: a power of two up to 32, or the whole block of ``threads``. ``weight``
    and ``bias`` are C++ types, or None. ``is_affine_ready``: they are constants, and may be read
    before the kernel waits. ``y_type`` is that of x unless given; ``epilogue`` has no operands.
    """

    x_type: str
    accumulator: str
    rows: tuple[Axis, ...]
    length: int
    vector: int
    lanes: int
    threads: int
    eps: float
    is_centered: bool
    weight: str | None
    bias: str | None
    is_affine_ready: bool
    index: str = "unsigned"
    y_type: str | None = None
    epilogue: Epilogue | None = None

    @property
    def held(self) -> int:
        """Vectors of a row per lane; 0 when they are too many to be held."""
        vectors = -(-self.length // self.vector // self.lanes)
        return vectors if vectors * self.vector <= MAX_HELD else 0

    @property
    def keeps_affine(self) -> bool:
        """Whether scale and shift stay in registers."""
        values = self.held * self.vector
        return self.is_affine_ready and 0 < values <= MAX_HELD_WITH_AFFINE


def layer_norm_source(problem: LayerNormProblem) -> str:
    """Source of ``layer_norm(x, y, [weight], [bias], rows)``."""
    terms = [(n, t) for n, t in (("weight", problem.weight), ("bias", problem.bias)) if t]
    keep = "".join(
        f"\n    A kept_{name}[HELD][V];\n#pragma unroll\n"
        f"    for (int k = 0; k < HELD; k++)\n"
        f"        if (is_inside(k)) load_affine(kept_{name}[k], {name} + place(k));"
        for name, _ in terms
    )
    text = _KERNEL.replace("@PARAMETERS@", "".join(f", const {kind}* {n}" for n, kind in terms))
    text = text.replace("@KEEP@", keep if problem.keeps_affine else "")
    text = text.replace("@EACH@", _EACH_HELD if problem.held else _EACH_READ)
    text = text.replace("@AFFINE@", "".join(_affine(name, problem) for name, _ in terms))
    text = text.replace("@STORE@", _store(problem))
    numbers = constants(
        V=problem.vector, COUNT=problem.lanes, THREADS=problem.threads, LENGTH=problem.length,
        VECTORS=problem.length // problem.vector, HELD=max(1, problem.held),
        IS_HELD=int(problem.held > 0), IS_CENTERED=int(problem.is_centered),
    )
    return "".join([
        PRELUDE, VALUES, LANES,
        f"typedef {problem.x_type} X;\ntypedef {problem.y_type or problem.x_type} Y;\n"
        f"typedef {problem.accumulator} A;\ntypedef {problem.index} INDEX;\n",
        numbers, f"#define EPS {problem.eps!r}\n",
        walk_function("at", problem.rows, ("x", "y"), problem.index),
        problem.epilogue.function(problem.accumulator) if problem.epilogue is not None else "",
        text,
    ])


def _store(problem: LayerNormProblem) -> str:
    if problem.epilogue is None:
        return "store_values<A, Y, V>(y + o.y + place(k), result);"
    applied: str = problem.epilogue.apply("result", [], problem.vector)
    store = f"store_values<{problem.epilogue.result}, Y, V>(y + o.y + place(k), stored);"
    return f"{applied}\n            {store}"


def _affine(name: str, problem: LayerNormProblem) -> str:
    operator = "*=" if name == "weight" else "+="
    load = f"load_affine(term, {name} + place(k));"
    if problem.keeps_affine:
        load = f"for (int j = 0; j < V; j++) term[j] = kept_{name}[k][j];"
    return (f"\n            {{ A term[V];\n            {load}\n#pragma unroll\n"
            f"            for (int j = 0; j < V; j++) result[j] {operator} term[j]; }}")
