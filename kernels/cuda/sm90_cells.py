"""Cells of 16 bytes of shared memory: copies into them, and wgmma on matrices made of them.

A matrix is not swizzled: eight rows of a cell each follow each other, groups of eight rows 128
bytes apart, and the next cells of these rows ``leading`` bytes further on. Emulated, addresses
count from the start of dynamic shared memory, and every thread adds up its own part of a product.
Source: PTX ISA, wgmma, matrix descriptors. Architectures: sm_90a alone.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.sm90_async import multiply_functions

_COPIES = r"""
#ifdef T2R_EMULATED
T2R_DEVICE u8* shared_at(u32 address) {
    extern __shared__ u8 shared[];
    return shared + address;
}
T2R_DEVICE u32 shared_start() { return 0; }
T2R_DEVICE void copy_cell(u32 to, const void* from, bool is_copied) {
    T2R_CHECK_ALIGNED(from, 16);
    for (int i = 0; i < 16; i++) shared_at(to)[i] = is_copied ? ((const u8*)from)[i] : 0;
}
T2R_DEVICE void put_words(u32 to, u32 first, u32 second) {
    ((u32*)shared_at(to))[0] = first;
    ((u32*)shared_at(to))[1] = second;
}
T2R_DEVICE void copies_commit() {}
template <int LEFT> T2R_DEVICE void copies_wait() {}
T2R_DEVICE void publish() {}
#else
T2R_DEVICE u32 shared_start() {
    extern __shared__ __align__(128) u8 shared[];
    return (u32)__cvta_generic_to_shared(shared);
}
// A cell of global memory, or zeros.
T2R_DEVICE void copy_cell(u32 to, const void* from, bool is_copied) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(is_copied ? 16 : 0) : "memory");
}
T2R_DEVICE void put_words(u32 to, u32 first, u32 second) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};"
                 :: "r"(to), "r"(first), "r"(second) : "memory");
}
T2R_DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> T2R_DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}
// What this thread has written is seen by the tensor cores after the next barrier.
T2R_DEVICE void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#endif
T2R_DEVICE u64 describe(u32 address, int leading_bytes) {
    return (u64)((address & 0x3ffff) >> 4) | ((u64)(leading_bytes >> 4) << 16)
         | ((u64)(128 >> 4) << 32);
}
"""

_EMULATED = r"""
template <class T> T2R_DEVICE float cell_value(u64 matrix, int row, int k) {
    const int start = (int)(matrix & 0x3fff) << 4, leading = (int)(matrix >> 16 & 0x3fff) << 4;
    const int group = (int)(matrix >> 32 & 0x3fff) << 4, per_cell = 16 / (int)sizeof(T);
    const u8* const cell =
        shared_at(start + row / 8 * group + row % 8 * 16 + k / per_cell * leading);
    return to_float(((const T*)cell)[k % per_cell]);
}
T2R_DEVICE void multiply_step(Sum (&d)[BN / 2], u64 a, u64 b, int adds) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    for (int i = 0; i < BN / 2; i++) {
        const int row = thread / 32 * 16 + lane / 4 + i / 2 % 2 * 8;
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        Sum sum = adds ? d[i] : (Sum)0;
        for (int k = 0; k < 32 / (int)sizeof(Factor); k++)
            sum += (Sum)(cell_value<Factor>(a, row, k) * cell_value<Factor>(b, column, k));
        d[i] = sum;
    }
}
T2R_DEVICE void products_begin(Sum (&d)[BN / 2]) {}
T2R_DEVICE void products_end(Sum (&d)[BN / 2]) {}
"""

def cells_source(type: str, columns: int) -> str:
    """C++ for factors of a type and products of 64 x ``columns``, in ``Sum d[columns / 2]``.

    ``multiply_step(d, a, b, adds)`` multiplies two cells per row, between ``products_begin(d)`` and
    ``products_end(d)``, which waits.
    """
    return f"""
typedef {type} Factor;
typedef {'i32' if type == 'i8' else 'float'} Sum;
constexpr int BN = {columns};
{_COPIES}
#ifdef T2R_EMULATED
{_EMULATED}
#else
{multiply_functions("multiply_step", type, columns)}
T2R_DEVICE void products_begin(Sum (&d)[BN / 2]) {{
    hold(d);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}}
T2R_DEVICE void products_end(Sum (&d)[BN / 2]) {{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(d);
}}
#endif
"""
