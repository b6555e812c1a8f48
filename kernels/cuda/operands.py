"""What our strided kernels share: values of any dtype, and epilogues with further operands.

A value is computed with in its accumulator type: float for 16-bit floats, else a wide type of its
own. An epilogue is a C++ expression in ``i0``, the accumulator, and ``i1``.. , the extra operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

VALUES = r"""
// A stored value as one that C++ computes with.
template <class T> T2R_DEVICE T widened(T v) { return v; }
T2R_DEVICE float widened(f16 v) { return to_float(v); }
T2R_DEVICE float widened(bf16 v) { return to_float(v); }
T2R_DEVICE float widened(f8 v) { return to_float(v); }

// The reverse; a float is cut or rounded as `from_float` does it.
template <class T> struct Narrow {
    static T2R_MEMBER T of(float v) { return from_float<T>(v); }
    static T2R_MEMBER T of(double v) { return (T)v; }
    static T2R_MEMBER T of(i64 v) { return (T)v; }
    static T2R_MEMBER T of(int v) { return (T)v; }
    static T2R_MEMBER T of(bool v) { return (T)v; }
};

template <class A, class T, int N> T2R_DEVICE void load_values(A (&values)[N], const T* address) {
    const Vec<T, N> stored = load_vec<T, N>(address);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = (A)widened(stored[i]);
}

template <class A, class T, int N> struct StoreValues {
    static T2R_MEMBER void to(T* address, const A (&values)[N]) {
        Vec<T, N> stored;
#pragma unroll
        for (int i = 0; i < N; i++) stored[i] = Narrow<T>::of(values[i]);
        store_vec<T, N>(address, stored);
    }
};
template <class T, int N> struct StoreValues<float, T, N> {
    static T2R_MEMBER void to(T* address, const float (&values)[N]) {
        store_floats<T, N>(address, values);
    }
};
template <class A, class T, int N> T2R_DEVICE void store_values(T* address, const A (&values)[N]) {
    StoreValues<A, T, N>::to(address, values);
}
"""


@dataclass(frozen=True, slots=True)
class Extra:
    """An operand of the epilogue: its C++ type and its stride along each axis of the walk.

    The last axis is the one that vectors lie along.
    """

    type: str
    strides: tuple[int, ...]

    def load(self, number: int, offset: str, vector: int) -> str:
        """C++ that declares ``v<number>`` of ``vector`` values at an offset."""
        name, step = f"v{number}", self.strides[-1]
        is_aligned = step == 1 and all(stride % vector == 0 for stride in self.strides[:-1])
        if is_aligned and vector > 1:
            return (f"const Vec<{self.type}, {vector}> {name} ="
                    f" load_vec<{self.type}, {vector}>(e{number} + {offset});")
        return (f"Vec<{self.type}, {vector}> {name};\n#pragma unroll\n"
                f"for (int j = 0; j < {vector}; j++) {name}[j] = e{number}[{offset} + j * {step}];")


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What follows a reduction: a C++ expression, its operands and the type of its result."""

    expression: str = "i0"
    result: str = "float"
    extras: tuple[Extra, ...] = ()

    def parameters(self) -> str:
        """Kernel parameters of the extra operands, each behind a comma."""
        return "".join(f", const {extra.type}* e{i}" for i, extra in enumerate(self.extras, 1))

    def function(self, accumulator: str) -> str:
        """``epilogue(i0, i1, ...)``."""
        types = "".join(
            f", decltype(widened({extra.type}())) i{i}" for i, extra in enumerate(self.extras, 1)
        )
        return (f"T2R_DEVICE {self.result} epilogue({accumulator} i0{types}) {{\n"
                f"    return ({self.result})({self.expression});\n}}\n")

    def apply(self, values: str, offsets: Sequence[str], vector: int) -> str:
        """C++ that declares ``stored``, the epilogue of ``values``, both of ``vector`` elements."""
        loads = "\n".join(
            extra.load(i, offset, vector)
            for i, (extra, offset) in enumerate(zip(self.extras, offsets, strict=True), 1)
        )
        arguments = "".join(f", widened(v{i}[j])" for i in range(1, len(self.extras) + 1))
        return (f"{loads}\n{self.result} stored[{vector}];\n#pragma unroll\n"
                f"for (int j = 0; j < {vector}; j++)"
                f" stored[j] = epilogue({values}[j]{arguments});")
