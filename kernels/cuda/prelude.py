"""What every CUDA C++ kernel starts with: types, conversions, wide accesses, reductions.

Free of headers, since NVRTC has none at hand: conversions are inline PTX. Where `T2R_EMULATED` is
defined (the emulator of the tests, which compiles kernels with g++), they are plain C++.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.functions import FUNCTIONS
from torch2rt.network.dtype import DType

_C_TYPES = {
    DType.FLOAT64: "double", DType.FLOAT32: "float", DType.FLOAT16: "f16",
    DType.BFLOAT16: "bf16", DType.INT64: "i64", DType.INT32: "i32", DType.INT16: "i16",
    DType.INT8: "i8", DType.UINT8: "u8", DType.BOOL: "bool", DType.FLOAT8_E4M3: "f8",
}


def c_type(dtype: DType) -> str:
    """The C++ type that stores a dtype."""
    return _C_TYPES[dtype]


_TYPES = r"""
typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define T2R_DEVICE static __device__ __forceinline__
#define T2R_MEMBER __device__ __forceinline__

// Small floats, for storage only: compute with to_float and from_float.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };
struct f8 { u8 bits; }; // E4M3

template <int BYTES> struct RawBytes;
template <> struct RawBytes<1> { typedef u8 type; };
template <> struct RawBytes<2> { typedef u16 type; };
template <> struct RawBytes<4> { typedef u32 type; };
template <> struct RawBytes<8> { typedef uint2 type; };
template <> struct RawBytes<16> { typedef uint4 type; };

#ifdef T2R_EMULATED
#define T2R_CHECK_ALIGNED(pointer, bytes) t2r_emulated::check_aligned(pointer, bytes)
#else
#define T2R_CHECK_ALIGNED(pointer, bytes)
#endif
"""

_CONVERSIONS = r"""
T2R_DEVICE float to_float(float x) { return x; }
T2R_DEVICE float to_float(double x) { return (float)x; }
// Through the mantissa of 1.5 * 2^23: conversion instructions run at an eighth of the rate.
T2R_DEVICE float t2r_small_to_float(i32 x) {
    return __uint_as_float((u32)x + 0x4b400000u) - 12582912.0f;
}
T2R_DEVICE float to_float(i8 x) { return t2r_small_to_float(x); }
T2R_DEVICE float to_float(u8 x) { return (float)x; }
T2R_DEVICE float to_float(i16 x) { return (float)x; }
T2R_DEVICE float to_float(i32 x) { return (float)x; }
T2R_DEVICE float to_float(u32 x) { return (float)x; }
T2R_DEVICE float to_float(i64 x) { return (float)x; }
T2R_DEVICE float to_float(bool x) { return x ? 1.0f : 0.0f; }
T2R_DEVICE float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
T2R_DEVICE float to_float(f16 x) {
#ifdef T2R_EMULATED
    _Float16 value;
    __builtin_memcpy(&value, &x, 2);
    return (float)value;
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
#endif
}

// E4M3 has no infinity, and NaN where all but the sign is 1. Shifted to where float32 has exponent
// and mantissa, its bits are the value over 2^120, subnormal ones included.
T2R_DEVICE float to_float(f8 x) {
    const float scaled = __uint_as_float((u32)(x.bits & 0x7fu) << 20) * 1.329227995784916e36f;
    const u32 sign = (u32)(x.bits & 0x80u) << 24;
    const u32 bits = (x.bits & 0x7fu) == 0x7fu ? 0x7fffffffu : __float_as_uint(scaled);
    return __uint_as_float(sign | bits);
}

// from_float<T>(x): rounded to nearest even, NaN kept; integers are cut towards zero and wrap.
template <class T> struct FromFloat;
template <> struct FromFloat<float> { static T2R_MEMBER float of(float x) { return x; } };
template <> struct FromFloat<double> { static T2R_MEMBER double of(float x) { return x; } };
template <> struct FromFloat<bool> { static T2R_MEMBER bool of(float x) { return x != 0.0f; } };
template <> struct FromFloat<i64> { static T2R_MEMBER i64 of(float x) { return (i64)x; } };
template <> struct FromFloat<i32> { static T2R_MEMBER i32 of(float x) { return (i32)x; } };
template <> struct FromFloat<i16> { static T2R_MEMBER i16 of(float x) { return (i16)(i32)x; } };
template <> struct FromFloat<i8> { static T2R_MEMBER i8 of(float x) { return (i8)(i32)x; } };
template <> struct FromFloat<u8> { static T2R_MEMBER u8 of(float x) { return (u8)(i32)x; } };
template <> struct FromFloat<f16> {
    static T2R_MEMBER f16 of(float x) {
        f16 result;
#ifdef T2R_EMULATED
        _Float16 value = (_Float16)x;
        __builtin_memcpy(&result, &value, 2);
#else
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#endif
        return result;
    }
};
template <> struct FromFloat<bf16> {
    static T2R_MEMBER bf16 of(float x) {
        bf16 result;
#if !defined(T2R_EMULATED) && __CUDA_ARCH__ >= 800
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#else
        const u32 bits = __float_as_uint(x);
        const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        result.bits = is_nan ? (u16)0x7fff : (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
        return result;
    }
};
// Cut to -448..448, infinity too.
template <> struct FromFloat<f8> {
    static T2R_MEMBER f8 of(float x) {
        f8 result;
#if !defined(T2R_EMULATED) && __CUDA_ARCH__ >= 890
        u16 pair;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
        result.bits = (u8)pair;
#else
        const u32 bits = __float_as_uint(x), sign = bits >> 24 & 0x80u, size = bits & 0x7fffffffu;
        if (size > 0x43e00000u) { // 448
            result.bits = (u8)(sign | (size > 0x7f800000u ? 0x7fu : 0x7eu));
        } else if (size < 0x3c800000u) { // below 2^-6: multiples of 2^-9, by a sum that rounds
            const float whole = __uint_as_float(size) * 512.0f + 12582912.0f;
            result.bits = (u8)(sign | (__float_as_uint(whole) & 0xfu));
        } else {
            const u32 rounded = size + 0x7ffffu + (size >> 20 & 1u);
            result.bits = (u8)(sign | ((rounded - 0x3c000000u) >> 20));
        }
#endif
        return result;
    }
};
template <class T> T2R_DEVICE T from_float(float x) { return FromFloat<T>::of(x); }

// The nearest integer, ties to even, cut to low..high, both within -128..127; NaN is one of them.
T2R_DEVICE i8 t2r_round_i8(float x, float low, float high) {
    return (i8)__float_as_uint(fminf(fmaxf(x, low), high) + 12582912.0f);
}

// The same for x that is never less than -128.
T2R_DEVICE i8 t2r_round_i8(float x, float high) {
    return (i8)__float_as_uint(fminf(x, high) + 12582912.0f);
}

// Two floats rounded into the low and the high half of 32 bits: one instruction.
template <class T> T2R_DEVICE u32 pack2(float low, float high) {
    return (u32)from_float<T>(low).bits | ((u32)from_float<T>(high).bits << 16);
}
// The same of E4M3, cut to -448..448: 16 bits.
T2R_DEVICE u16 pack2_f8(float low, float high) {
#if !defined(T2R_EMULATED) && __CUDA_ARCH__ >= 890
    u16 result;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(result) : "f"(high), "f"(low));
    return result;
#else
    return (u16)(from_float<f8>(low).bits | from_float<f8>(high).bits << 8);
#endif
}
#ifndef T2R_EMULATED
template <> __device__ __forceinline__ u32 pack2<f16>(float low, float high) {
    u32 result;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
#else
    result = (u32)from_float<f16>(low).bits | ((u32)from_float<f16>(high).bits << 16);
#endif
    return result;
}
#if __CUDA_ARCH__ >= 800
template <> __device__ __forceinline__ u32 pack2<bf16>(float low, float high) {
    u32 result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}
#endif
#endif
"""

_UNPACK = r"""
// The low and the high half of 32 bits as floats.
template <class T> T2R_DEVICE void unpack2(float& low, float& high, u32 word);
template <> __device__ __forceinline__ void unpack2<bf16>(float& low, float& high, u32 word) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
}
template <> __device__ __forceinline__ void unpack2<f16>(float& low, float& high, u32 word) {
#ifdef T2R_EMULATED
    low = to_float(f16{(u16)word});
    high = to_float(f16{(u16)(word >> 16)});
#else
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
        : "=f"(low), "=f"(high) : "r"(word));
#endif
}
"""

_ACCESS = r"""
// N elements that are loaded and stored together.
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
    T v[N];
    T2R_MEMBER T& operator[](int i) { return v[i]; }
    T2R_MEMBER const T& operator[](int i) const { return v[i]; }
};

// The vector at an address, a multiple of its size (of 16 bytes if it is larger).
template <class T, int N> T2R_DEVICE Vec<T, N> load_vec(const void* address) {
    constexpr int PIECE = sizeof(T) * N < 16 ? (int)(sizeof(T) * N) : 16;
    typedef typename RawBytes<PIECE>::type Raw;
    T2R_CHECK_ALIGNED(address, PIECE);
    Vec<T, N> result;
    Raw raw[sizeof(T) * N / PIECE];
#pragma unroll
    for (int i = 0; i < (int)(sizeof(T) * N / PIECE); i++) raw[i] = ((const Raw*)address)[i];
    memcpy(&result, raw, sizeof(result));
    return result;
}

template <class T, int N> T2R_DEVICE void store_vec(void* address, const Vec<T, N>& value) {
    constexpr int PIECE = sizeof(T) * N < 16 ? (int)(sizeof(T) * N) : 16;
    typedef typename RawBytes<PIECE>::type Raw;
    T2R_CHECK_ALIGNED(address, PIECE);
    Raw raw[sizeof(T) * N / PIECE];
    memcpy(raw, &value, sizeof(value));
#pragma unroll
    for (int i = 0; i < (int)(sizeof(T) * N / PIECE); i++) ((Raw*)address)[i] = raw[i];
}

// N elements as the registers that they were loaded to. Unlike a Vec, nothing waits for the load
// until `to_floats` or `store_loaded`: so many loads can be under way.
template <class T, int N> struct Loaded {
    static constexpr int PIECE = sizeof(T) * N < 16 ? (int)(sizeof(T) * N) : 16;
    static constexpr int PIECES = (int)(sizeof(T) * N) / PIECE;
    typename RawBytes<PIECE>::type raw[PIECES];
};

// The vector at an address, zeros if it is not there.
template <class T, int N> T2R_DEVICE Loaded<T, N> load_if(bool is_there, const void* address) {
    typedef typename RawBytes<Loaded<T, N>::PIECE>::type Raw;
    Loaded<T, N> result = Loaded<T, N>();
    if (is_there) {
        T2R_CHECK_ALIGNED(address, (Loaded<T, N>::PIECE));
#pragma unroll
        for (int i = 0; i < Loaded<T, N>::PIECES; i++) result.raw[i] = ((const Raw*)address)[i];
    }
    return result;
}

template <class T, int N> T2R_DEVICE void store_loaded(void* address, const Loaded<T, N>& value) {
    typedef typename RawBytes<Loaded<T, N>::PIECE>::type Raw;
    T2R_CHECK_ALIGNED(address, (Loaded<T, N>::PIECE));
#pragma unroll
    for (int i = 0; i < Loaded<T, N>::PIECES; i++) ((Raw*)address)[i] = value.raw[i];
}

template <class T, int N> struct ToFloats {
    static T2R_MEMBER void of(float (&values)[N], const Loaded<T, N>& loaded) {
        Vec<T, N> stored;
        memcpy(&stored, loaded.raw, sizeof(stored));
#pragma unroll
        for (int i = 0; i < N; i++) values[i] = to_float(stored[i]);
    }
};
template <class T, int N> struct HalvesToFloats {
    static T2R_MEMBER void of(float (&values)[N], const Loaded<T, N>& loaded) {
        u32 words[N / 2];
        memcpy(words, loaded.raw, sizeof(words));
#pragma unroll
        for (int i = 0; i < N / 2; i++) unpack2<T>(values[2 * i], values[2 * i + 1], words[i]);
    }
};
template <> struct ToFloats<f16, 2> : HalvesToFloats<f16, 2> {};
template <> struct ToFloats<f16, 4> : HalvesToFloats<f16, 4> {};
template <> struct ToFloats<f16, 8> : HalvesToFloats<f16, 8> {};
template <> struct ToFloats<bf16, 2> : HalvesToFloats<bf16, 2> {};
template <> struct ToFloats<bf16, 4> : HalvesToFloats<bf16, 4> {};
template <> struct ToFloats<bf16, 8> : HalvesToFloats<bf16, 8> {};
template <class T, int N>
T2R_DEVICE void to_floats(float (&values)[N], const Loaded<T, N>& loaded) {
    ToFloats<T, N>::of(values, loaded);
}

// The vector at an address as floats.
template <class T, int N> T2R_DEVICE void load_floats(float (&values)[N], const T* address) {
    to_floats<T, N>(values, load_if<T, N>(true, address));
}

template <class T, int N> struct StoreFloats {
    static T2R_MEMBER void to(T* address, const float (&values)[N]) {
        Vec<T, N> stored;
#pragma unroll
        for (int i = 0; i < N; i++) stored[i] = from_float<T>(values[i]);
        store_vec<T, N>(address, stored);
    }
};
template <class T, int N>
T2R_DEVICE void store_floats_packed(T* address, const float (&values)[N]) {
    Vec<u32, N / 2> stored;
#pragma unroll
    for (int i = 0; i < N / 2; i++) stored[i] = pack2<T>(values[2 * i], values[2 * i + 1]);
    store_vec<u32, N / 2>(address, stored);
}
#define T2R_STORE_PACKED(T, N) \
    template <> struct StoreFloats<T, N> { \
        static T2R_MEMBER void to(T* address, const float (&values)[N]) { \
            store_floats_packed<T, N>(address, values); \
        } \
    };
T2R_STORE_PACKED(f16, 2)
T2R_STORE_PACKED(f16, 4)
T2R_STORE_PACKED(f16, 8)
T2R_STORE_PACKED(bf16, 2)
T2R_STORE_PACKED(bf16, 4)
T2R_STORE_PACKED(bf16, 8)
template <class T, int N> T2R_DEVICE void store_floats(T* address, const float (&values)[N]) {
    StoreFloats<T, N>::to(address, values);
}
"""

_LAUNCHES = r"""
// Programmatic dependent launch: wait until everything launched before has ended. The first thing
// every thread does after index math in a kernel whose launch `overlaps`. Kernels never let the
// next one start by `griddepcontrol.launch_dependents`: kernels of cuDNN then read a residual too
// early (seen with cuDNN 9.19 on sm_90, in a graph). What another kernel writes is never read
// through `const T* __restrict__`: such loads count as invariant and may move above this.
T2R_DEVICE void t2r_wait() {
#ifdef T2R_EMULATED
    t2r_emulated::waited();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
"""

_REDUCTIONS = r"""
T2R_DEVICE float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// NaN wins.
T2R_DEVICE float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1)
        x = nan_max(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

T2R_DEVICE float warp_min(float x) { return -warp_max(-x); }

T2R_DEVICE int t2r_thread() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

// Over all threads of a block of whole warps, in every thread. `scratch`: 32 floats of shared
// memory, free for reuse after the call. THREADS: those of the block.
template <int THREADS> T2R_DEVICE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (THREADS <= 32) return x;
    const int thread = t2r_thread();
    if ((thread & 31) == 0) scratch[thread >> 5] = x;
    __syncthreads();
    x = (thread & 31) < THREADS / 32 ? scratch[thread & 31] : 0.0f;
    __syncthreads();
    return warp_sum(x);
}

template <int THREADS> T2R_DEVICE float block_max(float x, float* scratch) {
    x = warp_max(x);
    if (THREADS <= 32) return x;
    const int thread = t2r_thread();
    if ((thread & 31) == 0) scratch[thread >> 5] = x;
    __syncthreads();
    x = (thread & 31) < THREADS / 32 ? scratch[thread & 31] : -t2r_infinity();
    __syncthreads();
    return warp_max(x);
}
"""

PRELUDE = _TYPES + _CONVERSIONS + _UNPACK + _ACCESS + _LAUNCHES + FUNCTIONS + _REDUCTIONS
