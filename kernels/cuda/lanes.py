"""Reductions over the lanes that share a row: part of a warp, a warp or a block."""

from __future__ import annotations

LANES = r"""
// Ways to combine two values. `Larger` and `Smaller` let NaN win.
struct Sum { template <class A> static T2R_MEMBER A of(A a, A b) { return a + b; } };
struct Product { template <class A> static T2R_MEMBER A of(A a, A b) { return a * b; } };
struct Larger { template <class A> static T2R_MEMBER A of(A a, A b) { return nan_max(a, b); } };
struct Smaller { template <class A> static T2R_MEMBER A of(A a, A b) { return nan_min(a, b); } };
struct Any { template <class A> static T2R_MEMBER A of(A a, A b) { return a | b; } };
struct All { template <class A> static T2R_MEMBER A of(A a, A b) { return a & b; } };

// Over WIDTH neighbouring lanes of a warp, a power of two; all lanes of the warp call it.
template <class Op, int WIDTH, class A> T2R_DEVICE A reduce_warp(A v) {
#pragma unroll
    for (int step = WIDTH / 2; step > 0; step /= 2)
        v = Op::of(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// Over COUNT lanes: neighbours in a warp (a power of two), or all of a block of whole warps, whose
// number is at most 8 or a power of two. `scratch`: 32 values of shared memory, used for blocks.
template <class Op, int COUNT, class A> T2R_DEVICE A reduce_lanes(A v, A* scratch) {
    v = reduce_warp<Op, (COUNT < 32 ? COUNT : 32)>(v);
    if (COUNT <= 32) return v;
    constexpr int WARPS = COUNT / 32;
    const int thread = threadIdx.x;
    __syncthreads();
    if ((thread & 31) == 0) scratch[thread >> 5] = v;
    __syncthreads();
    if (WARPS > 8) return reduce_warp<Op, (WARPS > 8 ? WARPS : 1)>(scratch[thread & (WARPS - 1)]);
    v = scratch[0];
#pragma unroll
    for (int warp = 1; warp < WARPS; warp++) v = Op::of(v, scratch[warp]);
    return v;
}
"""
