# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""y = epilogue(a b) where few tiles would leave multiprocessors idle: several blocks share a tile.

As gemm_tma, but each tile's k is cut into PARTS; the blocks leave float32 sums in the workspace
and the last to arrive adds them, in a fixed order, and applies the epilogue. ``counters`` [tiles]
start at zero and are left at zero. Architectures: sm_90 and newer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch2rt.kernels.triton.common import (
    fetch_ahead,
    read_operand,
    start,
    sum_parts,
    sum_type,
    tile_of,
    write_part,
)


@triton.jit
def epilogue(acc, i1, i2, i3):
    """What is stored for an accumulator; replaced by the layer's own."""
    return acc


@triton.jit
def gemm_tma_split(
    a, b, y, e1, e2, e3, partial, counters, weights, m, n, k, weights_pitch,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    B_IS_ROWS: tl.constexpr, PRECISION: tl.constexpr, SUM_TERMS: tl.constexpr,
    OVERLAPS: tl.constexpr, PARTS: tl.constexpr,
):
    """Grid: (tiles, PARTS). ``weights`` is b [n, k] by address, or None."""
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    steps = tl.cdiv(k, BLOCK_K)
    index = tl.program_id(0)
    part = tl.program_id(1)
    tile_row, tile_column = tile_of(index, tiles_m, tiles_n, GROUP)
    row = tile_row * BLOCK_M
    column = tile_column * BLOCK_N
    fetch_ahead(
        weights, weights_pitch, column, n, part * weights_pitch // PARTS,
        (part + 1) * weights_pitch // PARTS, BLOCK_N, OVERLAPS,
    )
    start(OVERLAPS)
    SUM: tl.constexpr = sum_type(a.dtype)
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
    for step in range(part * steps // PARTS, (part + 1) * steps // PARTS):
        left = a.load([row, step * BLOCK_K])
        if B_IS_ROWS:
            right = b.load([column, step * BLOCK_K]).T
        else:
            right = b.load([step * BLOCK_K, column])
        acc = tl.dot(
            left, right, acc, input_precision=PRECISION, out_dtype=SUM,
            max_num_imprecise_acc=SUM_TERMS,
        )
    write_part(acc, partial, index, part, PARTS, BLOCK_M, BLOCK_N)
    if tl.atomic_add(counters + index, 1, sem="acq_rel") == PARTS - 1:
        tl.store(counters + index, 0)
        total = sum_parts(partial, index, PARTS, BLOCK_M, BLOCK_N)
        i1 = read_operand(e1, 0, row, column, m, n, E1, BLOCK_M, BLOCK_N)
        i2 = read_operand(e2, 0, row, column, m, n, E2, BLOCK_M, BLOCK_N)
        i3 = read_operand(e3, 0, row, column, m, n, E3, BLOCK_M, BLOCK_N)
        y.store([row, column], epilogue(total, i1, i2, i3).to(y.dtype))
