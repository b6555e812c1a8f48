"""Normalisation over groups of channels; instance norm is one channel a group.

Idea: three kernels. The first leaves, per sample, part of the pixels and channel, the mean and the
sum of squared differences from it: sums are taken of differences from the channel's first value,
so that nothing cancels. The second combines them per group into a factor and a term per channel.
The third applies them. Moves: x twice (the second time from the L2 cache where it fits), y once.
All architectures; vectors along c in CHANNELS_LAST.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.kernels.cuda.lanes import LANES
from torch2rt.kernels.cuda.operands import VALUES
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.strided import Axis, constants, count, walk_function

APPLY_THREADS, FINISH_THREADS = 256, 128

# What is known of some values: their number, mean, and sum of squared differences from it.
_MOMENTS = r"""
struct Moments { A count, mean, square; };

T2R_DEVICE Moments joined(const Moments& a, const Moments& b) {
    const A count = a.count + b.count;
    if (count == (A)0) return a;
    const A share = b.count / count, difference = b.mean - a.mean;
    return {count, a.mean + difference * share,
            a.square + b.square + difference * difference * a.count * share};
}
"""

_STATISTICS = r"""
extern "C" __global__ void __launch_bounds__(TX * TY)
group_statistics(const X* x, A* partial) {
    __shared__ Moments scratch[V][TY][TX];
    const int channel = (blockIdx.x * TX + threadIdx.x) * V;
    const int split = blockIdx.y, n = blockIdx.z;
    const bool is_live = channel < CHANNELS;
    const X* base = x + ((INDEX)n * XN + (INDEX)(is_live ? channel : 0) * XC);
    const INDEX first = (INDEX)split * CHUNK + threadIdx.y;
    const INDEX last = min((INDEX)(split + 1) * CHUNK, PIXELS);
    t2r_wait();
    A shift[V], sum[V], square[V];
#pragma unroll
    for (int j = 0; j < V; j++) shift[j] = sum[j] = square[j] = 0;
    if (is_live && first < last) load_values<A, X, V>(shift, base + pixel(first).x);
    int taken = 0;
    if (is_live) {
#pragma unroll 4
        for (INDEX i = first; i < last; i += TY) {
            A now[V];
            load_values<A, X, V>(now, base + pixel(i).x);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const A difference = now[j] - shift[j];
                sum[j] += difference;
                square[j] += difference * difference;
            }
            taken++;
        }
    }
    Moments mine[V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        const A mean = taken ? sum[j] / (A)taken : (A)0;
        mine[j] = {(A)taken, shift[j] + mean, nan_max(square[j] - mean * sum[j], (A)0)};
        scratch[j][threadIdx.y][threadIdx.x] = mine[j];
    }
    for (int step = TY / 2; step > 0; step /= 2) {
        __syncthreads();
        if (threadIdx.y < step)
#pragma unroll
            for (int j = 0; j < V; j++)
                scratch[j][threadIdx.y][threadIdx.x] = joined(
                    scratch[j][threadIdx.y][threadIdx.x],
                    scratch[j][threadIdx.y + step][threadIdx.x]);
    }
    if (threadIdx.y != 0 || !is_live) return;
    A* out = partial + 2 * (((INDEX)n * SPLITS + split) * CHANNELS + channel);
#pragma unroll
    for (int j = 0; j < V; j++) {
        out[2 * j] = scratch[j][0][threadIdx.x].mean;
        out[2 * j + 1] = scratch[j][0][threadIdx.x].square;
    }
}
"""

_FINISH = r"""
T2R_DEVICE float inverse_root(float x) { return rsqrtf(x); }
T2R_DEVICE double inverse_root(double x) { return 1.0 / sqrt(x); }

extern "C" __global__ void __launch_bounds__(THREADS)
group_finish(const A* partial, A* factors@PARAMETERS@, int groups) {
    const int group = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (group >= groups) return;
    const int n = group / GROUPS, first = group % GROUPS * PER_GROUP;
    t2r_wait();
    Moments all = {(A)0, (A)0, (A)0};
    for (int i = lane; i < SPLITS * PER_GROUP; i += 32) {
        const int split = i / PER_GROUP, channel = first + i % PER_GROUP;
        const A* part = partial + 2 * (((INDEX)n * SPLITS + split) * CHANNELS + channel);
        const INDEX pixels = min((INDEX)CHUNK, PIXELS - (INDEX)split * CHUNK);
        all = joined(all, {(A)pixels, part[0], part[1]});
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const Moments other = {__shfl_xor_sync(0xffffffffu, all.count, step),
                               __shfl_xor_sync(0xffffffffu, all.mean, step),
                               __shfl_xor_sync(0xffffffffu, all.square, step)};
        all = joined(all, other);
    }
    const A scale = inverse_root(all.square / all.count + (A)EPS);
    for (int i = lane; i < PER_GROUP; i += 32) {
        const int channel = first + i;
        A factor = scale;
        @WEIGHT@
        A term = -all.mean * factor;
        @BIAS@
        factors[(INDEX)n * CHANNELS + channel] = factor;
        factors[(INDEX)BATCH_CHANNELS + (INDEX)n * CHANNELS + channel] = term;
    }
}
"""

_APPLY = r"""
extern "C" __global__ void __launch_bounds__(THREADS)
group_apply(const X* x, X* y, const A* factors, u64 vectors) {
    const INDEX i = (INDEX)blockIdx.x * THREADS + threadIdx.x;
    if (i >= vectors) return;
    const auto o = at(i);
    t2r_wait();
    A now[V];
    load_values<A, X, V>(now, x + o.x);
    const A* factor = factors + o.f;
    const A* term = factor + BATCH_CHANNELS;
#pragma unroll
    for (int j = 0; j < V; j++) now[j] = now[j] * factor[j * STEP] + term[j * STEP];
    store_values<A, X, V>(y + o.y, now);
}
"""


@dataclass(frozen=True)
class GroupNormProblem:
    """A group norm of [n, c, pixels].

    ``pixels``: walk over the spatial axes of x; ``everything``: walk over x, y and the factors
    [n, c], in the order of memory, ``apply_vector`` elements of its last axis at once.
    ``x_strides``: of n and c. ``lanes``: TX vectors of ``vector`` channels by TY pixels.
    """

    x_type: str
    accumulator: str
    batch: int
    channels: int
    groups: int
    pixels: tuple[Axis, ...]
    everything: tuple[Axis, ...]
    x_strides: tuple[int, int]
    vector: int
    apply_vector: int
    lanes: tuple[int, int]
    splits: int
    eps: float
    weight: str | None
    bias: str | None
    index: str = "unsigned"

    @property
    def vectors(self) -> int:
        """Threads of the third kernel."""
        return int(count(self.everything)) // self.apply_vector


def statistics_source(problem: GroupNormProblem) -> str:
    """Source of ``group_statistics(x, partial)``; grid: channels, splits, batch."""
    tx, ty = problem.lanes
    numbers = constants(V=problem.vector, TX=tx, TY=ty)
    numbers += f"constexpr INDEX XN = {problem.x_strides[0]}u, XC = {problem.x_strides[1]}u;\n"
    pixel = walk_function("pixel", problem.pixels, ("x",), problem.index)
    return "".join([_definitions(problem), numbers, pixel, _MOMENTS, _STATISTICS])


def finish_source(problem: GroupNormProblem) -> str:
    """Source of ``group_finish(partial, factors, [weight], [bias], n * groups)``."""
    terms = [(n, t) for n, t in (("weight", problem.weight), ("bias", problem.bias)) if t]
    text = _FINISH.replace("@PARAMETERS@", "".join(f", const {kind}* {n}" for n, kind in terms))
    weight = "factor *= (A)widened(weight[channel]);" if problem.weight else ""
    bias = "term += (A)widened(bias[channel]);" if problem.bias else ""
    numbers = constants(
        THREADS=FINISH_THREADS, GROUPS=problem.groups,
        PER_GROUP=problem.channels // problem.groups,
    )
    text = text.replace("@WEIGHT@", weight).replace("@BIAS@", bias)
    return "".join([
        _definitions(problem), numbers, f"#define EPS {problem.eps!r}\n", _MOMENTS, text,
    ])


def apply_source(problem: GroupNormProblem) -> str:
    """Source of ``group_apply(x, y, factors, vectors)``."""
    last = problem.everything[-1].strides if problem.everything else (0, 0, 0)
    numbers = constants(V=problem.apply_vector, THREADS=APPLY_THREADS, STEP=last[2])
    walk = walk_function(
        "at", problem.everything, ("x", "y", "f"), problem.index, problem.apply_vector
    )
    return "".join([_definitions(problem), numbers, walk, _APPLY])


def _definitions(problem: GroupNormProblem) -> str:
    pixels = count(problem.pixels)
    numbers = constants(
        CHANNELS=problem.channels, SPLITS=problem.splits, PIXELS=pixels,
        CHUNK=-(-pixels // problem.splits), BATCH_CHANNELS=problem.batch * problem.channels,
    ).replace("constexpr int", "constexpr INDEX")
    return "".join([
        PRELUDE, VALUES, LANES,
        f"typedef {problem.x_type} X;\ntypedef {problem.accumulator} A;\n"
        f"typedef {problem.index} INDEX;\n", numbers,
    ])
