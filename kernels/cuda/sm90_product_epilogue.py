"""How the epilogue of sm90_product.py reads its operands, and where it puts its results."""

from __future__ import annotations

from collections.abc import Sequence

from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.sm90_product_form import Operand


def with_operands(kernel: str, operands: Sequence[Operand]) -> str:
    """A kernel's text with the operands of its epilogue written out."""
    parts: dict[str, list[str]] = {
        key: [] for key in (
            "PARAMETERS", "ARGUMENTS", "SCALARS", "ARRAYS", "COLUMNS", "READS", "FETCHES", "PASSED",
            "LOADS",
        )
    }
    values: list[list[str]] = [[], []]
    columns = 0
    for index, operand in enumerate(operands, 1):
        name, suffix = f"e{index}", {"scalar": "", "column": "[j]"}
        if operand.kind == "staged":
            parts["PARAMETERS"].append(f",\n    const __grid_constant__ TensorMap {name}")
            parts["FETCHES"].append(f"fetch({name}, own_staging, fetched, place);")
            parts["ARRAYS"].append(f"float {name}_v[AHEAD][2][2];")
            parts["READS"].append(
                f"take_pair<Result>({name}_v[j][part], place_in_store(corner, first + j, part));"
            )
        else:
            parts["PARAMETERS"].append(f",\n    const {c_type(operand.dtype)}* {name}")
        if operand.kind in ("scalar", "matrix"):
            parts["PASSED"].append(f",\n    const {c_type(operand.dtype)}* {name}")
            parts["ARGUMENTS"].append(f", {name}")
        if operand.kind == "scalar":
            parts["SCALARS"].append(f"const float {name}_v = to_float(*{name});")
        elif operand.kind == "column":
            parts["ARRAYS"].append(f"float {name}_v[AHEAD][2];")
            parts["LOADS"].append(
                f"load_columns(loaded[{columns}], {name}, place.column, thread, n);"
            )
            parts["COLUMNS"].append(
                f"take_columns({name}_v[j], columns, {columns}, 8 * (first + j) + y_column);"
            )
            columns += 1
        elif operand.kind == "matrix":
            parts["PARAMETERS"].append(f", int {name}_pitch")
            parts["PASSED"].append(f", int {name}_pitch")
            parts["ARGUMENTS"].append(f", {name}_pitch")
            parts["ARRAYS"].append(f"float {name}_v[AHEAD][2][2];")
            parts["READS"].append(
                f"read_pair({name}_v[j][part], {name}, row, column, {name}_pitch, m, n);"
            )
        for side, chosen in enumerate(values):
            which = "" if operand.kind == "scalar" else f"[{side}]"
            chosen.append(f", {name}_v{suffix.get(operand.kind, '[j][part]')}{which}")
    parts |= {"REST0": values[0], "REST1": values[1]}
    for key, texts in parts.items():
        kernel = kernel.replace(f"@{key}@", " ".join(texts))
    return kernel


PLACES = r"""
// Two neighbours of a row as floats; zeros outside the matrix.
template <class T> T2R_DEVICE void read_pair(
    float (&v)[2], const T* from, int row, int column, int pitch, int m, int n
) {
    const T* at = from + (i64)row * pitch + column;
    if (IS_EVEN) {
        load_floats<T, 2>(v, at);
    } else if (HAS_PAIRS) {
        to_floats<T, 2>(v, load_if<T, 2>(row < m && column < n, at));
    } else {
        v[0] = row < m && column < n ? to_float(at[0]) : 0.0f;
        v[1] = row < m && column + 1 < n ? to_float(at[1]) : 0.0f;
    }
}

// A thread's values of an operand with one per column; zeros outside.
constexpr int OWN_COLUMNS = (BN + 127) / 128;
template <class T> T2R_DEVICE void load_columns(
    float (&v)[OWN_COLUMNS], const T* from, int column, int thread, int n
) {
#pragma unroll
    for (int i = 0; i < OWN_COLUMNS; i++) {
        const int own = thread + 128 * i;
        v[i] = own < BN && column + own < n ? to_float(from[column + own]) : 0.0f;
    }
}
T2R_DEVICE void put_columns(u32 columns, int operand, const float (&v)[OWN_COLUMNS], int thread) {
#pragma unroll
    for (int i = 0; i < OWN_COLUMNS; i++) {
        const int own = thread + 128 * i;
        if (own < BN)
            asm volatile("st.shared.f32 [%0], %1;"
                         :: "r"(columns + 4 * (operand * BN + own)), "f"(v[i]) : "memory");
    }
}
// Those of two neighbours.
T2R_DEVICE void take_columns(float (&v)[2], u32 columns, int operand, int column) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                 : "=f"(v[0]), "=f"(v[1]) : "r"(columns + 4 * (operand * BN + column)));
}

// Two neighbours of a row of the result, where the store's map expects them. Loads of what the
// epilogue reads do not pass it: more of them at once than AHEAD says would not fit the registers.
T2R_DEVICE void put(u32 at, float low, float high) {
    if (sizeof(Result) == 1) {
        const u16 pair = pack2_f8(low, high);
        asm volatile("st.shared.b16 [%0], %1;" :: "r"(at), "h"(pair) : "memory");
        return;
    }
    const u32 word = pack2<Half>(low, high);
    asm volatile("st.shared.b32 [%0], %1;" :: "r"(at), "r"(word) : "memory");
}
T2R_DEVICE void put(u32 at, i8 low, i8 high) {
    const u16 word = (u16)(u8)low | (u16)((u16)(u8)high << 8);
    asm volatile("st.shared.b16 [%0], %1;" :: "r"(at), "h"(word) : "memory");
}
template <class T> T2R_DEVICE void take_pair(float (&v)[2], u32 at) {
    if (sizeof(T) == 1) {
        u16 word;
        asm volatile("ld.shared.u16 %0, [%1];" : "=h"(word) : "r"(at) : "memory");
        v[0] = to_float((i8)(word & 255));
        v[1] = to_float((i8)(word >> 8));
    } else {
        u32 word;
        asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(at) : "memory");
        unpack2<Half>(v[0], v[1], word);
    }
}
// Chunks of 16 bytes of a row are swizzled by the row's number, as the store's map expects.
T2R_DEVICE u32 corner_in_store(u32 staging, int row, int column) {
    const int twist = STORE_ROW_BYTES == 128 ? row & 7 : (row >> 1) & 3;
    return (staging + row * STORE_ROW_BYTES + column * (int)sizeof(Result)) ^ (twist << 4);
}
// Of eight columns further right, ``j`` times, and eight rows further down, ``part`` times.
T2R_DEVICE u32 place_in_store(u32 corner, int j, int part) {
    const int byte = 8 * (int)sizeof(Result) * j;
    const int box = byte / STORE_ROW_BYTES, inside = byte % STORE_ROW_BYTES;
    return (corner ^ (inside & ~15)) + (inside & 15) + box * 64 * STORE_ROW_BYTES
         + part * 8 * STORE_ROW_BYTES;
}
"""
