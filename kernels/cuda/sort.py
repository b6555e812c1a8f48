"""Sorting and top k along an axis.

Idea: a block sorts a line in shared memory by a bitonic network over (key, position): keys are the
values as unsigned numbers in sorting order (NaN largest, equal values equal), so that the sort is
stable and needs no special cases. Of lines longer than the buffer the first `count` survive: they
are sorted again and again with the next elements (top k of a long line).
Grid: one block per line. Bytes moved: the line, and what is kept. Limits: the count is at most the
buffer's size, half of it if the line is longer. Architectures: any.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.moves import MOVES

NAME = "t2r_sort"

_FLOATS = {"f16": 16, "bf16": 16, "float": 32, "double": 64}
_BITS = {"i64": 64, "i32": 32, "i16": 16, "i8": 8, "u8": 8, "bool": 8}


def key_bytes(dtype: str) -> int:
    """Bytes of a key."""
    return 8 if dtype in ("double", "i64") else 4


def _ascending_key(dtype: str) -> str:
    """C++ statements that return the key of `x`, smaller values first."""
    if dtype in _FLOATS:
        bits = _FLOATS[dtype]
        raw = "x.bits" if bits == 16 else "__float_as_uint(x)" if bits == 32 else (
            "(u64)__double_as_longlong(x)"
        )
        infinity = {"f16": 0x7C00, "bf16": 0x7F80, "float": 0x7F800000,
                    "double": 0x7FF0000000000000}[dtype]
        sign, all_bits = 1 << (bits - 1), (1 << bits) - 1
        return f"""
    Key bits = (Key){raw};
    const Key magnitude = bits & (Key){sign - 1}ull;
    if (magnitude > (Key){infinity}ull) return (Key){all_bits}ull;
    if (magnitude == 0) bits = 0;
    return bits & (Key){sign}ull ? ~bits & (Key){all_bits}ull : bits | (Key){sign}ull;"""
    if dtype in ("u8", "bool"):
        return "return (Key)x;"
    bits = _BITS[dtype]
    return f"return ((Key)x ^ (Key){1 << (bits - 1)}ull) & (Key){(1 << bits) - 1}ull;"


def sort_source(dtype: str, size: int, threads: int, is_descending: bool) -> str:
    """The kernel for a buffer of ``size`` elements, a power of two.

    Arguments: x, values, positions, elements of a line, how many are kept, lines within an outer
    step (which is also the distance of a line's elements).
    """
    key = "u64" if key_bytes(dtype) == 8 else "u32"
    value = f"~ascending({'{}'})" if is_descending else "ascending({})"
    return f"""{MOVES}
typedef {key} Key;
T2R_DEVICE Key ascending({dtype} x) {{{_ascending_key(dtype)}
}}

extern "C" __global__ void __launch_bounds__({threads}) {NAME}(
    const {dtype}* x, {dtype}* values, i64* positions, u32 length, u32 count, u32 inner
) {{
    extern __shared__ __align__(16) unsigned char shared[];
    Key* keys = (Key*)shared;
    u32* order = (u32*)(shared + {size} * sizeof(Key));
    const u32 outer = blockIdx.x / inner, lane = blockIdx.x % inner;
    const {dtype}* line = x + (i64)outer * length * inner + lane;
    t2r_wait();
    u32 next = 0;
    // What was kept of the elements so far stands in front; the first time that is nothing.
    for (u32 kept = 0; next < length; kept = count) {{
        for (u32 i = kept + threadIdx.x; i < {size}; i += {threads}) {{
            const u32 position = next + i - kept;
            const bool exists = position < length;
            keys[i] = exists ? (Key)({value.format("line[(i64)position * inner]")}) : ~(Key)0;
            order[i] = exists ? position : 0xffffffffu;
        }}
        next += {size} - kept;
        for (u32 run = 2; run <= {size}; run *= 2)
            for (u32 step = run / 2; step > 0; step /= 2) {{
                __syncthreads();
                for (u32 pair = threadIdx.x; pair < {size // 2}; pair += {threads}) {{
                    const u32 i = 2 * pair - (pair & (step - 1)), j = i + step;
                    const bool is_up = (i & run) == 0;
                    const Key a = keys[i], b = keys[j];
                    const u32 p = order[i], q = order[j];
                    if ((a > b || (a == b && p > q)) == is_up) {{
                        keys[i] = b, keys[j] = a;
                        order[i] = q, order[j] = p;
                    }}
                }}
            }}
        __syncthreads();
    }}
    const i64 out = (i64)outer * count * inner + lane;
    for (u32 i = threadIdx.x; i < count; i += {threads}) {{
        values[out + (i64)i * inner] = line[(i64)order[i] * inner];
        positions[out + (i64)i * inner] = (i64)order[i];
    }}
}}
"""
