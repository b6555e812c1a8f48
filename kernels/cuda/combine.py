"""Elements that combine at indexed places: scatter with a reduction, adding index_put.

Idea: the places that one index can reach form a line; several threads own its places in turn, go
through all entries of the line in order, and combine those that fall on their own places. So the
result does not depend on timing, and needs no atomic operations. Sums are kept in the workspace,
wide. Entries that point outside the tensor count for nothing.
Grid: threads = lines x owners. Bytes moved: indices once per owner (caches serve them), the tensor
twice, the workspace. Meant to be right; fast only for short lines. Architectures: any.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.moves import MOVES, array, ints

NAME = "t2r_combine"
THREADS = 128

_COMBINE = {
    "sum": "acc[place] + value", "mean": "acc[place] + value", "prod": "acc[place] * value",
    "amax": "counts[place] ? nan_max(acc[place], value) : value",
    "amin": "counts[place] ? nan_min(acc[place], value) : value",
}


def accumulator(dtype: str) -> str:
    """The C++ type that values of a C++ type are combined in."""
    if dtype in ("f16", "bf16", "float"):
        return "float"
    return dtype if dtype == "double" else "i64"


def combine_source(dtype: str, mode: str, lines: int, entries: int, indices: list[str]) -> str:
    """The kernel for ``lines`` axes of lines and ``entries`` axes of entries.

    Arguments: x, values, out, sums, counts, the index tensors, threads, owners, places of a line,
    entries of a line, whether x counts in; axes of lines: size, entries only below this index,
    strides of x, out, values and each index; axes of entries: size, strides of values and each
    index; then per index tensor: length of its axis and its strides in x and out.
    """
    number, count = accumulator(dtype), len(indices)
    arrays = _arrays(lines, entries, count)
    bases = "".join(
        f"\n    const int index_base{k} = t2r_offset(line, line_index{k});" for k in range(count)
    )
    is_float = number == "float"
    return f"""{MOVES}{_HELPERS}
template <class T> T2R_DEVICE {number} widen(T x) {{
    return {"to_float(x)" if is_float else f"({number})x"};
}}
T2R_DEVICE {dtype} narrow({number} x) {{
    return {f"from_float<{dtype}>(x)" if is_float else f"({dtype})x"};
}}

extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    {", ".join(_arguments(dtype, indices, arrays))}
) {{
    {" ".join(array(name, size) for name, size in arrays)}
    const u32 flat = blockIdx.x * blockDim.x + threadIdx.x;
    t2r_wait();
    if (flat >= threads) return;
    const int owner = (int)(flat % owners);
    int line[{lines}];
    t2r_unflatten(flat / owners, line_size, line);
    const int x_base = t2r_offset(line, line_x), out_base = t2r_offset(line, line_out);
    const int value_base = t2r_offset(line, line_values);{bases}
    {number}* acc = sums + (i64)(flat / owners) * places;
    int* counts = all_counts + (i64)(flat / owners) * places;
    for (int place = owner; place < places; place += (int)owners) {{
        const {number} own = widen(x[x_base + place_offset(place, length, axis_x)]);
        acc[place] = includes_self ? own : ({number}){int(mode == "prod")};
        counts[place] = includes_self;
    }}
    bool has_entries = true;
#pragma unroll
    for (int axis = 0; axis < {lines}; axis++)
        has_entries = has_entries && line[axis] < line_limit[axis];
    for (int e = 0; has_entries && e < entries; e++) {{
        int entry[{entries}];
        t2r_unflatten((u32)e, entry_size, entry);
        bool inside = true;
        int place = 0;{"".join(_lookup(k) for k in range(count))}
        if (!inside || place % (int)owners != owner) continue;
        const {number} value = widen(values[value_base + t2r_offset(entry, entry_values)]);
        acc[place] = {_COMBINE[mode]};
        counts[place]++;
    }}
    for (int place = owner; place < places; place += (int)owners) {{
        const {dtype} own = x[x_base + place_offset(place, length, axis_x)];
        const int n = counts[place];
        out[out_base + place_offset(place, length, axis_out)] =
            n ? narrow({"quotient(acc[place], n)" if mode == "mean" else "acc[place]"}) : own;
    }}
}}
"""


_HELPERS = r"""
// Means of integers are rounded down.
T2R_DEVICE i64 quotient(i64 a, int n) { return a / n - (a % n != 0 && a < 0); }
T2R_DEVICE float quotient(float a, int n) { return a / (float)n; }
T2R_DEVICE double quotient(double a, int n) { return a / n; }

// Where a place of a line stands in a tensor: its index along every indexed axis.
template <int K> T2R_DEVICE int place_offset(
    int place, const int (&length)[K], const int (&stride)[K]
) {
    int at[K];
    t2r_unflatten((u32)place, length, at);
    return t2r_offset(at, stride);
}
"""


def _arrays(lines: int, entries: int, count: int) -> list[tuple[str, int]]:
    of_lines = ["line_size", "line_limit", "line_x", "line_out", "line_values"]
    of_lines += [f"line_index{k}" for k in range(count)]
    of_entries = ["entry_size", "entry_values", *(f"entry_index{k}" for k in range(count))]
    return [
        *((name, lines) for name in of_lines), *((name, entries) for name in of_entries),
        ("length", count), ("axis_x", count), ("axis_out", count),
    ]


def _arguments(
    dtype: str, indices: list[str], arrays: list[tuple[str, int]]
) -> list[str]:
    return [
        f"const {dtype}* x", f"const {dtype}* values", f"{dtype}* out",
        f"{accumulator(dtype)}* sums", "int* all_counts",
        *(f"const {kind}* index{k}" for k, kind in enumerate(indices)),
        "u32 threads", "u32 owners", "int places", "int entries", "int includes_self",
        *(argument for name, size in arrays for argument in ints(name, size)),
    ]


def _lookup(k: int) -> str:
    return f"""
        {{
            i64 p = (i64)index{k}[index_base{k} + t2r_offset(entry, entry_index{k})];
            p = p < 0 ? p + length[{k}] : p;
            inside = inside && p >= 0 && p < length[{k}];
            place = place * length[{k}] + (inside ? (int)p : 0);
        }}"""
