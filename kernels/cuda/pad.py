"""Windows around a tensor: padding of every mode, and rolls.

Idea: each vector of the output finds the place it comes from, axis by axis: out of range it is a
constant, the nearest element, the mirror image or the other end.
Grid: vectors of the output. Bytes moved: the output and what is read. Architectures: any.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.moves import MOVES, array, ints, vector_type

NAME = "t2r_pad"
THREADS = 256

# The position along an axis; `inside` becomes false where the constant stands.
_POSITIONS = {
    "constant": "inside = inside && p >= 0 && p < n;",
    "replicate": "p = p < 0 ? 0 : p >= n ? n - 1 : p;",
    "reflect": "p = p < 0 ? -p : p; p = p >= n ? 2 * (n - 1) - p : p;",
    "circular": "p = p < 0 ? p + n : p >= n ? p - n : p;",
}


def pad_source(vector_bytes: int, rank: int, mode: str) -> str:
    """The kernel for ``rank`` axes.

    Arguments: source, target, vectors, pattern of the constant, then per axis: size of the output,
    elements before, size of the input, strides from and to.
    """
    vector = vector_type(vector_bytes)
    arrays = ("size", "before", "length", "from", "to")
    return f"""{MOVES}
extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    const void* source, void* target, u32 count, u64 pattern,
    {", ".join(argument for name in arrays for argument in ints(name, rank))}
) {{
    {" ".join(array(name, rank) for name in arrays)}
    const u32 flat = blockIdx.x * blockDim.x + threadIdx.x;
    t2r_wait();
    if (flat >= count) return;
    int at[{rank}];
    t2r_unflatten(flat, size, at);
    bool inside = true;
    int offset = 0;
#pragma unroll
    for (int axis = 0; axis < {rank}; axis++) {{
        const int n = length[axis];
        int p = at[axis] - before[axis];
        {_POSITIONS[mode]}
        offset += p * from[axis];
    }}
    {vector} value = t2r_pattern<{vector}>(pattern);
    if (inside) value = ((const {vector}*)source)[offset];
    (({vector}*)target)[t2r_offset(at, to)] = value;
}}
"""
