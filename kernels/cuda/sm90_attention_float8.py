"""What sm90_attention.py does otherwise for float8 (E4M3) queries, keys and values.

Rows of queries and keys are 64 bytes, multiplied as they are, 32 features at once. Values come as
bytes and are made float16, which is exact, by the three warps that the copying one has beside it:
tensor cores take a second factor that lies by rows in 16 bits only, and shares keep the bits of a
float16. So stages also hold the bytes of their values. The result is scaled by the layer's
epilogue, and stored as float8 or in 16 bits.

Expected of ViT-B/16 at batch 64, per multiprocessor and matrix: memory 2700 clocks, tensor cores
2500, exponentials 3200, conversions 500 beside them: 13 us. Measured on an H200: 31 us, where 16
bits take 34: half the bytes save little, so that it is the instructions between the products that
bound both.
"""

from __future__ import annotations

# Warps that convert, and the registers of their warpgroup and of the others, by how many these are.
CONVERTING_WARPS = 3
FLOAT8_REGISTERS = {1: (32, 224), 2: (32, 232), 3: (32, 160)}

CONVERT = r"""
struct alignas(16) Unit { u32 words[4]; };
// Two numbers of E4M3 in float16, the first one in the low half.
T2R_DEVICE u32 halves_of(u16 pair) {
#ifdef T2R_EMULATED
    const f8 low = {(u8)pair}, high = {(u8)(pair >> 8)};
    return pack2<f16>(to_float(low), to_float(high));
#else
    u32 result;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(result) : "h"(pair));
    return result;
#endif
}
// All warps of the first warpgroup but the one that copies: values of all items in float16.
// ``shared`` is address 0 of shared memory. Units of a row are exchanged as tensor maps do it.
T2R_DEVICE void convert(const Ring& ring, u8* shared) {
    Slot slot = {0, 0};
    for (int item = blockIdx.x; item < ITEMS; item += gridDim.x) {
        const int chunks = chunks_of(item);
        for (int chunk = 0; chunk < chunks; chunk++, advance(slot)) {
            u8* const halves = shared + ring.base + slot.stage * STAGE_BYTES + KEY_ROOM;
            barrier_wait(ring.bytes_full + 8 * slot.stage, slot.parity);
#pragma unroll 1  // for want of registers
            for (int unit = threadIdx.x - 32; unit < VALUES * 4; unit += 96) {
                const Unit bytes = ((const Unit*)(halves + VALUE_BYTES))[unit];
                const int row = unit / 4;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    Unit made;
#pragma unroll
                    for (int word = 0; word < 4; word++) {
                        const u32 four = bytes.words[2 * half + word / 2];
                        made.words[word] = halves_of((u16)(four >> 16 * (word % 2)));
                    }
                    const int place = (unit % 4 * 2 + half) ^ (row & 7);
                    *(Unit*)(halves + row * ROW_BYTES + (place << 4)) = made;
                }
            }
            publish();
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(ring.values_full + 8 * slot.stage);
        }
    }
}
"""

# How the kernel calls it.
CONVERTS = """        else convert(ring, raw - shared_address(raw));
"""

# Two neighbours of a row of the result, of which a lane has those at 2 * (lane % 4) of each eight.
PUT_BYTES = r"""
T2R_DEVICE void put_pair(u32 staging, int row, int eight, int pair, float low, float high) {
    const u32 unit = (eight >> 1) ^ (row >> 1 & 3);
    put_short(staging + row * 64 + (unit << 4) + (eight & 1) * 8 + pair * 2, pack2_f8(low, high));
}
"""

PUT_SHORT = r"""
T2R_DEVICE void put_short(u32 at, u16 value) {
    asm volatile("st.shared.b16 [%0], %1;" :: "r"(at), "h"(value) : "memory");
}
"""


def multiply_bytes(scores: int) -> str:
    """C++ of the first product over 32 features of E4M3."""
    count = scores // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    return f"""
#ifdef T2R_EMULATED
T2R_DEVICE void multiply_keys(float (&d)[SCORES / 2], u64 a, u64 b, int adds) {{
    t2r_emulated::multiply_rows<f8>(d, a, b, adds);
}}
#else
// d [64, SCORES] (+)= a b^T: 32 features of queries and keys, rows of both in shared memory.
T2R_DEVICE void multiply_keys(float (&d)[SCORES / 2], u64 a, u64 b, int adds) {{
    asm volatile(
        "{{ .reg .pred p; setp.ne.b32 p, %{count + 2}, 0; "
        "wgmma.mma_async.sync.aligned.m64n{scores}k32.f32.e4m3.e4m3 "
        "{{{registers}}}, %{count}, %{count + 1}, p, 1, 1; }}"
        : {outputs} : "l"(a), "l"(b), "r"(adds));
}}
#endif
"""
