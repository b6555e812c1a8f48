"""Products of small matrices by one warp on the tensor cores, as one C++ function.

``t2r_mma<T>(d, a, b)``: d [16, 8] += a [16, 16] * b [16, 8], T being f16 or bf16, d float. Lane
4 g + t holds a[g][2t..], a[g+8][2t..], a[g][2t+8..], a[g+8][2t+8..] (two elements each),
b[2t..][g], b[2t+8..][g], and d[g][2t], d[g][2t+1], d[g+8][2t], d[g+8][2t+1]. With T i8 or f8,
words hold four elements, so that the inner axis is 32 long; of i8, d is i32.
Source: PTX, mma.m16n8k16 with .f16 and .bf16, m16n8k32 with .s8 and .e4m3. Architectures: sm_80 and
later, f8 sm_89.
"""

from __future__ import annotations

MMA = r"""
#ifdef T2R_EMULATED
template <class D> struct MmaLane { D* d; const u32* a; const u32* b; };
template <class T> struct MmaElement {
    static constexpr int COUNT = 2;
    static float of(u32 word, int i) {
        T value;
        value.bits = (u16)(word >> (16 * i));
        return to_float(value);
    }
};
template <> struct MmaElement<i8> {
    static constexpr int COUNT = 4;
    static i32 of(u32 word, int i) { return (i8)(word >> (8 * i)); }
};
template <> struct MmaElement<f8> {
    static constexpr int COUNT = 4;
    static float of(u32 word, int i) { return to_float(f8{(u8)(word >> (8 * i))}); }
};
template <class T, class D> inline void run_mma(void** lanes, unsigned) {
    constexpr int N = MmaElement<T>::COUNT;
    D a[16][8 * N], b[8 * N][8];
    for (int lane = 0; lane < 32; lane++) {
        const MmaLane<D>& self = *(MmaLane<D>*)lanes[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < N; i++) {
            for (int word = 0; word < 4; word++)
                a[g + word % 2 * 8][N * t + word / 2 * 4 * N + i]
                    = MmaElement<T>::of(self.a[word], i);
            for (int word = 0; word < 2; word++)
                b[N * t + word * 4 * N + i][g] = MmaElement<T>::of(self.b[word], i);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        D* d = ((MmaLane<D>*)lanes[lane])->d;
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 8 * N; k++)
                d[i] += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
    }
}
template <class T, class D>
T2R_DEVICE void t2r_mma(D (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    MmaLane<D> lane{d, a, b};
    t2r_emulated::warp_collective(0xffffffffu, run_mma<T, D>, &lane);
}
#else
template <class T> T2R_DEVICE void t2r_mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
#define T2R_MMA(T, k, name) \
    template <> __device__ __forceinline__ void t2r_mma<T>( \
        float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { \
        asm("mma.sync.aligned.m16n8" k ".row.col.f32." name "." name ".f32 " \
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }
T2R_MMA(f16, "k16", "f16")
T2R_MMA(bf16, "k16", "bf16")
#if __CUDA_ARCH__ >= 890
T2R_MMA(f8, "k32", "e4m3")
#endif
template <class T> T2R_DEVICE void t2r_mma(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
"""
