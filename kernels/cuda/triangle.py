"""Zeros on one side of a diagonal. Grid: vectors along rows. Bytes: in and out. Any architecture.

Idea: a thread loads a vector and clears the items whose column is on the wrong side.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.moves import MOVES, vector_type

NAME = "t2r_triangle"
THREADS = 256


def triangle_source(item_bytes: int, vector: int, upper: bool) -> str:
    """The kernel for vectors of ``vector`` items.

    Arguments: source, target, vectors, rows, vectors of a row, diagonal.
    """
    item = vector_type(item_bytes)
    keeps = ">=" if upper else "<="
    return f"""{MOVES}
extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    const {item}* source, {item}* target, u32 count, u32 rows, u32 columns, int diagonal
) {{
    const u32 flat = blockIdx.x * blockDim.x + threadIdx.x;
    t2r_wait();
    if (flat >= count) return;
    const int column = (int)(flat % columns) * {vector};
    const int row = (int)(flat / columns % rows);
    Vec<{item}, {vector}> values = load_vec<{item}, {vector}>(source + (i64)flat * {vector});
    const {item} zero = t2r_pattern<{item}>(0);
#pragma unroll
    for (int i = 0; i < {vector}; i++)
        if (!(column + i - row {keeps} diagonal)) values[i] = zero;
    store_vec<{item}, {vector}>(target + (i64)flat * {vector}, values);
}}
"""
