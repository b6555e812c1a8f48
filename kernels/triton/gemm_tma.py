# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""y = epilogue(a b) by persistent blocks that the copy engine feeds through tensor maps.

a [m, k], y [m, n] and epilogue matrices are row-major with any pitch that is a multiple of 16
bytes; b is [n, k], or [k, n] unless B_IS_ROWS. Each block takes every so-many-th tile; the loops
are flattened, so that the next tile's operands arrive while this one's epilogue runs. Bytes
moved: a once per column of tiles, b once per row of tiles, mostly from the L2; y once.
Architectures: sm_90 and newer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch2rt.kernels.triton.common import read_operand, start, tile_of


@triton.jit
def epilogue(acc, i1, i2, i3):
    """What is stored for an accumulator; replaced by the layer's own."""
    return acc


@triton.jit
def gemm_tma(
    a, b, y, e1, e2, e3, m, n, k,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    B_IS_ROWS: tl.constexpr, PRECISION: tl.constexpr, OVERLAPS: tl.constexpr,
):
    """Grid: (number of blocks,)."""
    start(OVERLAPS)
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    steps = tl.cdiv(k, BLOCK_K)
    for index in tl.range(
        tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True
    ):
        tile_row, tile_column = tile_of(index, tiles_m, tiles_n, GROUP)
        row = tile_row * BLOCK_M
        column = tile_column * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for step in range(steps):
            left = a.load([row, step * BLOCK_K])
            if B_IS_ROWS:
                right = b.load([column, step * BLOCK_K]).T
            else:
                right = b.load([step * BLOCK_K, column])
            acc = tl.dot(left, right, acc, input_precision=PRECISION)
        i1 = read_operand(e1, 0, row, column, m, n, E1, BLOCK_M, BLOCK_N)
        i2 = read_operand(e2, 0, row, column, m, n, E2, BLOCK_M, BLOCK_N)
        i3 = read_operand(e3, 0, row, column, m, n, E3, BLOCK_M, BLOCK_N)
        y.store([row, column], epilogue(acc, i1, i2, i3).to(y.dtype))
