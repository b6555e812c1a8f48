"""Copies whose two sides are contiguous along different axes.

Idea: a block reads a square tile along the axis that is contiguous in the source (``b``), and
writes it along the one that is contiguous in the target (``a``); shared memory turns it.
Grid: tiles of b, then of a, then the other axes. Bytes moved: what is read plus what is written.
Limits: fewer than 2^31 elements. Architectures: any.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.moves import MOVES, array, ints, vector_type

NAME = "t2r_transpose"
THREADS = 256


def tile_size(item_bytes: int) -> int:
    """Elements along a side of the tile."""
    return 64 if item_bytes <= 2 else 32


def transpose_source(item_bytes: int, rank: int) -> str:
    """The kernel for ``rank`` axes besides a and b.

    Arguments: source, target, sizes of a and b, stride of a in the source and of b in the target,
    tiles of a and b, then sizes and strides from and to of the other axes.
    """
    item, tile = vector_type(item_bytes), tile_size(item_bytes)
    padding = max(1, 4 // item_bytes)  # lanes of a warp read a column from different banks
    return f"""{MOVES}
extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    const void* source, void* target, int size_a, int size_b, int from_a, int to_b,
    int tiles_a, int tiles_b, {", ".join([*ints("size", rank), *ints("from", rank),
                                          *ints("to", rank)])}
) {{
    {array("size", rank)}
    {array("from", rank)}
    {array("to", rank)}
    __shared__ {item} tile[{tile}][{tile} + {padding}];
    const int b0 = (int)(blockIdx.x % (u32)tiles_b) * {tile};
    const u32 rest = blockIdx.x / (u32)tiles_b;
    const int a0 = (int)(rest % (u32)tiles_a) * {tile};
    int at[{rank}];
    t2r_unflatten(rest / (u32)tiles_a, size, at);
    const int column = threadIdx.x % {tile};
    const int first = threadIdx.x / {tile};
    t2r_wait();
    const {item}* read = (const {item}*)source + t2r_offset(at, from) + b0 + column;
#pragma unroll
    for (int row = 0; row < {tile}; row += {THREADS // tile}) {{
        const int a = a0 + first + row;
        if (a < size_a && b0 + column < size_b) tile[first + row][column] = read[a * from_a];
    }}
    __syncthreads();
    {item}* write = ({item}*)target + t2r_offset(at, to) + a0 + column;
#pragma unroll
    for (int row = 0; row < {tile}; row += {THREADS // tile}) {{
        const int b = b0 + first + row;
        if (b < size_b && a0 + column < size_a) write[b * to_b] = tile[column][first + row];
    }}
}}
"""
