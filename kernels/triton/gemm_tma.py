# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""y = epilogue(a b), fed by the copy engine through tensor maps.

a [m, k], y [m, n] and epilogue matrices are row-major with any pitch that is a multiple of 16
bytes; b is [n, k], or [k, n] unless B_IS_ROWS. Persistent blocks take every so-many-th tile, and
their loops are flattened, so that the next tile's operands arrive while this one's epilogue runs;
otherwise each block has one tile, and blocks on one multiprocessor hide each other's epilogues.
HALVES 2 applies the epilogue to the left and right half of a tile in turn: less shared memory.
Sums of so many as SUM_TERMS products of float8 are added in float32; None leaves them all to the
tensor cores, which on sm_90 keep 14 bits.
Bytes moved: a once per column of tiles, b once per row of tiles, mostly from the L2; y once.
Architectures: sm_90 and newer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch2rt.kernels.triton.common import fetch_ahead, read_operand, start, sum_type, tile_of


@triton.jit
def epilogue(acc, i1, i2, i3):
    """What is stored for an accumulator; replaced by the layer's own."""
    return acc


@triton.jit
def store_tile(
    acc, y, e1, e2, e3, row, column, m, n,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """Apply the epilogue to a tile, or half a tile, and store it."""
    i1 = read_operand(e1, 0, row, column, m, n, E1, BLOCK_M, BLOCK_N)
    i2 = read_operand(e2, 0, row, column, m, n, E2, BLOCK_M, BLOCK_N)
    i3 = read_operand(e3, 0, row, column, m, n, E3, BLOCK_M, BLOCK_N)
    y.store([row, column], epilogue(acc, i1, i2, i3).to(y.dtype))


@triton.jit
def compute_tile(
    index, a, b, y, e1, e2, e3, m, n, k,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    HALVES: tl.constexpr, B_IS_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    SUM_TERMS: tl.constexpr,
):
    """One tile, from first load to store."""
    tile_row, tile_column = tile_of(index, tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N), GROUP)
    row = tile_row * BLOCK_M
    column = tile_column * BLOCK_N
    SUM: tl.constexpr = sum_type(a.dtype)
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
    for step in range(tl.cdiv(k, BLOCK_K)):
        left = a.load([row, step * BLOCK_K])
        if B_IS_ROWS:
            right = b.load([column, step * BLOCK_K]).T
        else:
            right = b.load([step * BLOCK_K, column])
        acc = tl.dot(
            left, right, acc, input_precision=PRECISION, out_dtype=SUM,
            max_num_imprecise_acc=SUM_TERMS,
        )
    if HALVES == 1:
        store_tile(acc, y, e1, e2, e3, row, column, m, n, E1, E2, E3, BLOCK_M, BLOCK_N)
    else:
        HALF: tl.constexpr = BLOCK_N // 2
        halves = acc.reshape(BLOCK_M, 2, HALF).permute(0, 2, 1)
        near, far = halves.split()
        store_tile(near, y, e1, e2, e3, row, column, m, n, E1, E2, E3, BLOCK_M, HALF)
        store_tile(far, y, e1, e2, e3, row, column + HALF, m, n, E1, E2, E3, BLOCK_M, HALF)


@triton.jit
def gemm_tma(
    a, b, y, e1, e2, e3, weights, m, n, k, weights_pitch,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    HALVES: tl.constexpr, IS_PERSISTENT: tl.constexpr, B_IS_ROWS: tl.constexpr,
    PRECISION: tl.constexpr, SUM_TERMS: tl.constexpr, OVERLAPS: tl.constexpr,
):
    """Grid: (number of blocks,). ``weights`` is b [n, k] by address, or None."""
    _, column = tile_of(tl.program_id(0), tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N), GROUP)
    fetch_ahead(
        weights, weights_pitch, column * BLOCK_N, n, 0, weights_pitch, BLOCK_N, OVERLAPS
    )
    start(OVERLAPS)
    if IS_PERSISTENT:
        tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
        for index in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            compute_tile(
                index, a, b, y, e1, e2, e3, m, n, k, E1, E2, E3, BLOCK_M, BLOCK_N, BLOCK_K,
                GROUP, HALVES, B_IS_ROWS, PRECISION, SUM_TERMS,
            )
    else:
        compute_tile(
            tl.program_id(0), a, b, y, e1, e2, e3, m, n, k, E1, E2, E3, BLOCK_M, BLOCK_N,
            BLOCK_K, GROUP, HALVES, B_IS_ROWS, PRECISION, SUM_TERMS,
        )
