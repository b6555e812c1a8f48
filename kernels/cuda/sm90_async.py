"""What kernels for Hopper ask of the copy engine, barriers and tensor cores, as C++ functions.

Tensor maps are kernel parameters (``const __grid_constant__ TensorMap map``); addresses of shared
memory are 32-bit. ``..._for_both`` is for clusters of two blocks. ROW_BYTES is 128 or 64.
Source: PTX ISA, mbarrier, cp.async.bulk.tensor, wgmma. Architectures: sm_90a alone.
"""

from __future__ import annotations

SM90_ASYNC = r"""
struct alignas(64) TensorMap { u8 bytes[128]; };

T2R_DEVICE u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}
T2R_DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
T2R_DEVICE void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
}
T2R_DEVICE void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(count) : "memory");
}
T2R_DEVICE void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(barrier), "r"(bytes) : "memory");
}
T2R_DEVICE void barrier_wait(u32 barrier, int parity) {
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }"
                 :: "r"(barrier), "r"(parity) : "memory");
}
// The same barrier in a block of the cluster. It publishes nothing that was written, so it need not
// release at the scope of the cluster, which costs a fence of the whole GPU.
T2R_DEVICE void barrier_arrive(u32 barrier, u32 rank) {
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there]; }"
                 :: "r"(barrier), "r"(rank) : "memory");
}
T2R_DEVICE void load_box(u32 to, const TensorMap* map, u32 barrier, int k, int row) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];"
                 :: "r"(to), "l"(map), "r"(barrier), "r"(k), "r"(row) : "memory");
}
// To the same place of both blocks, each of whose barriers counts the bytes.
T2R_DEVICE void load_box_for_both(u32 to, const TensorMap* map, u32 barrier, int k, int row) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%4, %5}], [%2], %3;"
                 :: "r"(to), "l"(map), "r"(barrier), "h"((u16)3), "r"(k), "r"(row) : "memory");
}
// Pixels of one tap: (w, h, image) is the first pixel's corner, (right, down) the tap's place.
T2R_DEVICE void load_pixels(
    u32 to, const TensorMap* map, u32 barrier, int c, int w, int h, int image, int right, int down
) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col"
                 ".mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};"
                 :: "r"(to), "l"(map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(image),
                    "h"((u16)right), "h"((u16)down) : "memory");
}
T2R_DEVICE void load_pixels_for_both(
    u32 to, const TensorMap* map, u32 barrier, int c, int w, int h, int image, int right, int down
) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col"
                 ".mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8}, %9;"
                 :: "r"(to), "l"(map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(image),
                    "h"((u16)right), "h"((u16)down), "h"((u16)3) : "memory");
}
T2R_DEVICE void store_box(const TensorMap* map, u32 from, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];"
                 :: "l"(map), "r"(from), "r"(column), "r"(row) : "memory");
}
T2R_DEVICE void stores_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
T2R_DEVICE void stores_have_read() {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
T2R_DEVICE void stores_are_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
T2R_DEVICE void named_sync(int name, int threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(name), "r"(threads) : "memory");
}
T2R_DEVICE void named_arrive(int name, int threads) {
    asm volatile("bar.arrive %0, %1;" :: "r"(name), "r"(threads) : "memory");
}
T2R_DEVICE void sums_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
T2R_DEVICE void sums_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> T2R_DEVICE void sums_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory");
}
// Where rows of ROW_BYTES lie that a tensor map has swizzled: groups of eight rows, dense.
T2R_DEVICE u64 describe(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | ((u64)1 << 16) | ((u64)(8 * ROW_BYTES >> 4) << 32)
         | ((u64)(ROW_BYTES == 128 ? 1 : 2) << 62);
}
"""

_TYPES = {
    "f16": "k16.f32.f16.f16", "bf16": "k16.f32.bf16.bf16", "i8": "k32.s32.s8.s8",
    "f8": "k32.f32.e4m3.e4m3",
}
# What follows the predicate: signs of the factors, and which of them lie transposed.
_TAILS = {"f16": ", 1, 1, 0, 0", "bf16": ", 1, 1, 0, 0", "i8": "", "f8": ", 1, 1"}


def multiply_functions(name: str, type: str, columns: int) -> str:
    """C++ of ``name(d, a, b, adds)``: ``Sum d[columns / 2]`` (+)= a b over 32 bytes of k.

    d is 64 x ``columns``, of a warpgroup; a and b are descriptors of factors of a C++ type.
    ``hold(d)`` keeps the compiler from moving d past what runs meanwhile.
    """
    count = columns // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    letter = "r" if type == "i8" else "f"
    outputs = ", ".join(f'"+{letter}"(d[{i}])' for i in range(count))
    return f"""
T2R_DEVICE void {name}(Sum (&d)[BN / 2], u64 a, u64 b, int adds) {{
    asm volatile(
        "{{ .reg .pred p; setp.ne.b32 p, %{count + 2}, 0; "
        "wgmma.mma_async.sync.aligned.m64n{columns}{_TYPES[type]} "
        "{{{registers}}}, %{count}, %{count + 1}, p{_TAILS[type]}; }}"
        : {outputs} : "l"(a), "l"(b), "r"(adds));
}}
T2R_DEVICE void hold(Sum (&d)[BN / 2]) {{
#pragma unroll
    for (int i = 0; i < BN / 2; i++) asm volatile("" : "+{letter}"(d[i]) :: "memory");
}}
"""
