"""Products of small matrices by one warp on the tensor cores, as one C++ function.

``t2r_mma<T>(d, a, b)``: d [16, 8] += a [16, 16] * b [16, 8], T being f16 or bf16, d float. Lane
4 g + t holds a[g][2t..], a[g+8][2t..], a[g][2t+8..], a[g+8][2t+8..] (two elements each),
b[2t..][g], b[2t+8..][g], and d[g][2t], d[g][2t+1], d[g+8][2t], d[g+8][2t+1].
Source: PTX, mma.m16n8k16 with .f16 and .bf16. Architectures: sm_80 and later.
"""

from __future__ import annotations

MMA = r"""
#ifdef T2R_EMULATED
struct MmaLane { float* d; const u32* a; const u32* b; };
template <class T> inline float mma_element(const u32* words, int word, int half) {
    T value;
    value.bits = (u16)(words[word] >> (16 * half));
    return to_float(value);
}
template <class T> inline void run_mma(void** lanes, unsigned) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const MmaLane& self = *(MmaLane*)lanes[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 2; i++) {
            for (int word = 0; word < 4; word++)
                a[g + word % 2 * 8][2 * t + word / 2 * 8 + i] = mma_element<T>(self.a, word, i);
            for (int word = 0; word < 2; word++)
                b[2 * t + word * 8 + i][g] = mma_element<T>(self.b, word, i);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        float* d = ((MmaLane*)lanes[lane])->d;
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 16; k++)
                d[i] += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
    }
}
template <class T> T2R_DEVICE void t2r_mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    MmaLane lane{d, a, b};
    t2r_emulated::warp_collective(0xffffffffu, run_mma<T>, &lane);
}
#else
template <class T> T2R_DEVICE void t2r_mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
#define T2R_MMA(T, name) \
    template <> __device__ __forceinline__ void t2r_mma<T>( \
        float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 " \
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }
T2R_MMA(f16, "f16")
T2R_MMA(bf16, "bf16")
#endif
"""
