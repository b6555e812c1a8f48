"""Scalar functions of CUDA C++ kernels: those of `torch2rt.expression` that C++ has not.

Floats are float or double. NaN goes through as in torch. ``print_cpp`` prints calls of these.
"""

from __future__ import annotations

_NAN = r"""
T2R_DEVICE float t2r_infinity() { return __uint_as_float(0x7f800000u); }
T2R_DEVICE float t2r_nan() { return __uint_as_float(0x7fc00000u); }

// Larger and smaller value; NaN if one is NaN.
template <class T> T2R_DEVICE T nan_max(T x, T y) { return x > y || x != x ? x : y; }
template <class T> T2R_DEVICE T nan_min(T x, T y) { return x < y || x != x ? x : y; }
#if !defined(T2R_EMULATED) && __CUDA_ARCH__ >= 800
template <> __device__ __forceinline__ float nan_max<float>(float x, float y) {
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}
template <> __device__ __forceinline__ float nan_min<float>(float x, float y) {
    float result;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}
#endif
"""

_ACTIVATIONS = r"""
template <class T> T2R_DEVICE T t2r_relu(T x) { return nan_max(x, (T)0); }
template <class T> T2R_DEVICE T t2r_clamp(T x, T low, T high) {
    return nan_min(nan_max(x, low), high);
}
T2R_DEVICE float t2r_divide(float x, float y) { return __fdividef(x, y); }
T2R_DEVICE double t2r_divide(double x, double y) { return x / y; }
template <class T> T2R_DEVICE T t2r_sigmoid(T x) { return t2r_divide((T)1, (T)1 + exp(-x)); }
// __fdividef is 0 for divisors beyond 2^126, where x / (1 + exp(-x)) is 0 to rounding.
template <class T> T2R_DEVICE T t2r_silu(T x) { return t2r_divide(x, (T)1 + exp(-x)); }
template <class T> T2R_DEVICE T t2r_gelu(T x) {
    return (T)0.5 * x * ((T)1 + erf(x * (T)0.70710678118654752440));
}
// For results of 16 bits: 2^q(|x|) is the normal distribution's tail, q a polynomial. Within 2.4e-6
// of the exact value; infinities and NaN as there.
T2R_DEVICE float t2r_gelu_16(float x) {
    const float a = fabsf(x);
    const float q = ((((-4.83148091e-4f * a + 7.21682841e-3f) * a - 5.22770807e-2f) * a
        - 4.59419489e-1f) * a - 1.15106380f) * a - 1.0f;
#ifdef T2R_EMULATED
    const float tail = exp2(q);
#else
    float tail;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(tail) : "f"(q));
#endif
    return x * (x > 0.0f ? 1.0f - tail : tail);
}
T2R_DEVICE double t2r_gelu_16(double x) { return t2r_gelu(x); }
template <class T> T2R_DEVICE T t2r_gelu_tanh(T x) {
    return (T)0.5 * x
        * ((T)1 + tanh((T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x)));
}
template <class T> T2R_DEVICE T t2r_softplus(T x) { return x > (T)20 ? x : log1p(exp(x)); }
template <class T> T2R_DEVICE T t2r_mish(T x) { return x * tanh(t2r_softplus(x)); }
template <class T> T2R_DEVICE T t2r_hardsigmoid(T x) {
    return t2r_clamp(x + (T)3, (T)0, (T)6) * (T)(1.0 / 6.0);
}
template <class T> T2R_DEVICE T t2r_hardswish(T x) { return x * t2r_hardsigmoid(x); }
template <class T> T2R_DEVICE T t2r_leaky_relu(T x, T slope) { return x > (T)0 ? x : x * slope; }
template <class T> T2R_DEVICE T t2r_elu(T x, T alpha) {
    return x > (T)0 ? x : alpha * expm1(x);
}
template <class T> T2R_DEVICE T t2r_sign(T x) { return (T)(((T)0 < x) - (x < (T)0)); }
template <class T> T2R_DEVICE T t2r_square(T x) { return (T)(x * x); }
template <class T> T2R_DEVICE T t2r_cube(T x) { return (T)(x * x * x); }
template <class T> T2R_DEVICE T t2r_abs(T x) { return (T)(x < (T)0 ? -x : x); }
T2R_DEVICE float t2r_abs(float x) { return fabsf(x); }
T2R_DEVICE double t2r_abs(double x) { return fabs(x); }
T2R_DEVICE bool t2r_isinf(float x) { return fabsf(x) == t2r_infinity(); }
T2R_DEVICE bool t2r_isinf(double x) { return fabs(x) == (double)t2r_infinity(); }
"""

_DIVISIONS = r"""
// Quotient and remainder as Python and torch define them. Integers divided by zero give 0.
template <class T> T2R_DEVICE bool t2r_is_minus_one(T x) { return x < (T)0 && x == (T)-1; }
template <class T> T2R_DEVICE T t2r_truncdiv(T x, T y) {
    return y == (T)0 ? (T)0 : t2r_is_minus_one(y) ? (T)-x : (T)(x / y);
}
T2R_DEVICE float t2r_truncdiv(float x, float y) { return trunc(x / y); }
T2R_DEVICE double t2r_truncdiv(double x, double y) { return trunc(x / y); }
template <class T> T2R_DEVICE T t2r_fmod(T x, T y) {
    return y == (T)0 || t2r_is_minus_one(y) ? (T)0 : (T)(x % y);
}
T2R_DEVICE float t2r_fmod(float x, float y) { return fmod(x, y); }
T2R_DEVICE double t2r_fmod(double x, double y) { return fmod(x, y); }
template <class T> T2R_DEVICE T t2r_remainder(T x, T y) {
    const T rest = t2r_fmod(x, y);
    return rest != (T)0 && (rest < (T)0) != (y < (T)0) ? (T)(rest + y) : rest;
}
template <class T> T2R_DEVICE T t2r_floordiv(T x, T y) {
    const T quotient = t2r_truncdiv(x, y);
    const T rest = t2r_fmod(x, y);
    return rest != (T)0 && (rest < (T)0) != (y < (T)0) ? (T)(quotient - (T)1) : quotient;
}
template <class T> T2R_DEVICE T t2r_floordiv_float(T x, T y) {
    if (y == (T)0) return x / y;
    const T rest = fmod(x, y);
    T quotient = (x - rest) / y;
    if (rest != (T)0 && (rest < (T)0) != (y < (T)0)) quotient -= (T)1;
    if (quotient == (T)0) return copysign((T)0, x / y);
    const T whole = floor(quotient);
    return quotient - whole > (T)0.5 ? whole + (T)1 : whole;
}
T2R_DEVICE float t2r_floordiv(float x, float y) { return t2r_floordiv_float(x, y); }
T2R_DEVICE double t2r_floordiv(double x, double y) { return t2r_floordiv_float(x, y); }

// Whole powers of whole numbers; negative exponents as torch: 0 but for 1 and -1.
template <class T> T2R_DEVICE T t2r_pow(T x, T exponent) {
    if (exponent < (T)0) {
        if (x == (T)1) return (T)1;
        return x == (T)-1 ? (exponent % 2 ? (T)-1 : (T)1) : (T)0;
    }
    T result = (T)1;
    while (exponent) {
        if (exponent & 1) result = (T)(result * x);
        exponent = (T)(exponent / 2);
        x = (T)(x * x);
    }
    return result;
}
T2R_DEVICE float t2r_pow(float x, float exponent) { return powf(x, exponent); }
T2R_DEVICE double t2r_pow(double x, double exponent) { return pow(x, exponent); }
"""

FUNCTIONS = _NAN + _ACTIVATIONS + _DIVISIONS
