"""Strided copies: concat, slice, expand, reshape and the like.

Idea: a thread moves a few vectors; the flat index of a vector in the order of the target's memory
gives an index along every axis, and those the offsets on both sides. Several copies ("parts", such
as the inputs of a concat) share a launch: each has blocks of its own.
Grid: blocks of all parts, one after the other. Bytes moved: what is read plus what is written.
Limits: fewer than 2^31 elements. Architectures: any.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.moves import MOVES, array, ints, vector_type

NAME = "t2r_copy"
THREADS = 256

_PART = r"""
template <class V, class S, int R, int U> T2R_DEVICE void copy_part(
    const S* source, V* target, u32 block, u32 count, const int (&sizes)[R],
    const int (&from)[R], const int (&to)[R]
) {
    V held[U];
    int place[U];
#pragma unroll
    for (int u = 0; u < U; u++) {
        const u32 flat = (block * U + u) * blockDim.x + threadIdx.x;
        if (flat < count) {
            int at[R];
            t2r_unflatten(flat, sizes, at);
            held[u] = t2r_spread<V, S>(source[t2r_offset(at, from)]);
            place[u] = t2r_offset(at, to);
        }
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
        const u32 flat = (block * U + u) * blockDim.x + threadIdx.x;
        if (flat < count) target[place[u]] = held[u];
    }
}
"""


def copy_source(
    vector_bytes: int, source_bytes: int, rank: int, parts: int, unroll: int
) -> str:
    """The kernel for ``parts`` copies over ``rank`` axes each.

    A thread stores ``unroll`` vectors. ``source_bytes``: those of a vector, or of an item that
    fills a whole vector (the innermost axis is broadcast).
    Arguments per part: source, target, first block behind it, vectors, sizes, strides from, to.
    """
    arguments: list[str] = []
    for part in range(parts):
        arguments += [
            f"const void* source{part}", f"void* target{part}", f"u32 end{part}",
            f"u32 count{part}", *ints(f"size{part}", rank), *ints(f"from{part}", rank),
            *ints(f"to{part}", rank),
        ]
    vector, item = vector_type(vector_bytes), vector_type(source_bytes)
    calls = [
        f"""
    if (blockIdx.x < end{part}) {{
        {array(f"size{part}", rank)}
        {array(f"from{part}", rank)}
        {array(f"to{part}", rank)}
        copy_part<{vector}, {item}, {rank}, {unroll}>(
            (const {item}*)source{part}, ({vector}*)target{part},
            blockIdx.x - {f"end{part - 1}" if part else "0"}, count{part}, size{part},
            from{part}, to{part}
        );
        return;
    }}"""
        for part in range(parts)
    ]
    return f"""{MOVES}{_PART}
extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    {", ".join(arguments)}
) {{
    t2r_wait();{"".join(calls)}
}}
"""
