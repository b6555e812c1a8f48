# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Convolution without padding of few channels, as of an image into patches: runs of pixels.

Where channels are innermost, the S pixels that a window has in one row of x [n, h, w, c] are one
run of S * c elements; in x [n, c, h, w], each channel has runs of S. The left operand's k counts
channel, row and place in the run (RUN elements), and so do the weights, rows ``pitch`` apart.
y [n, p, q, k] has k dense and evenly spaced pixels. PARTS as in gemm_tma_split. Bytes moved: x
once per column of tiles, mostly from the L2; weights once per row of tiles; y once.
Architectures: sm_80 and newer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch2rt.kernels.triton.common import (
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
def patches(
    x, w, y, e1, e2, e3, partial, counters, m, k, depth, pitch, pixels, columns_out,
    x_image, x_channel, x_row, row_step, column_step, y_row, e1_row, e2_row, e3_row,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr, R: tl.constexpr, RUN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, OVERLAPS: tl.constexpr, PARTS: tl.constexpr,
):
    """Grid: (tiles, PARTS). ``m`` counts pixels of y, ``pixels`` those of one image."""
    start(OVERLAPS)
    index = tl.program_id(0)
    part = tl.program_id(1)
    tile_row, tile_column = tile_of(index, tl.cdiv(m, BLOCK_M), tl.cdiv(k, BLOCK_N), GROUP)
    row = tile_row * BLOCK_M
    column = tile_column * BLOCK_N
    rows = row + tl.arange(0, BLOCK_M)
    outs = column + tl.arange(0, BLOCK_N)
    pixel = rows % pixels
    corner = rows // pixels * x_image
    corner += pixel // columns_out * row_step + pixel % columns_out * column_step
    is_row = (rows < m)[:, None]
    is_out = (outs < k)[None, :]
    steps = tl.cdiv(depth, BLOCK_K)
    SUM: tl.constexpr = sum_type(x.dtype.element_ty)
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
    for step in range(part * steps // PARTS, (part + 1) * steps // PARTS):
        ks = step * BLOCK_K + tl.arange(0, BLOCK_K)
        place = ks // (R * RUN) * x_channel + ks % (R * RUN) // RUN * x_row + ks % RUN
        is_there = ks < depth
        left = tl.load(
            x + corner[:, None] + place[None, :], mask=is_row & is_there[None, :], other=0
        )
        right = tl.load(
            w + ks[:, None] + outs[None, :] * pitch, mask=is_there[:, None] & is_out, other=0
        )
        acc = tl.dot(left, right, acc, input_precision=PRECISION, out_dtype=SUM)
    is_last = True
    if PARTS > 1:
        write_part(acc, partial, index, part, PARTS, BLOCK_M, BLOCK_N)
        is_last = tl.atomic_add(counters + index, 1, sem="acq_rel") == PARTS - 1
    if is_last:
        if PARTS > 1:
            tl.store(counters + index, 0)
            acc = sum_parts(partial, index, PARTS, BLOCK_M, BLOCK_N)
        i1 = read_operand(e1, e1_row, row, column, m, k, E1, BLOCK_M, BLOCK_N)
        i2 = read_operand(e2, e2_row, row, column, m, k, E2, BLOCK_M, BLOCK_N)
        i3 = read_operand(e3, e3_row, row, column, m, k, E3, BLOCK_M, BLOCK_N)
        result = epilogue(acc, i1, i2, i3).to(y.dtype.element_ty)
        tl.store(y + rows[:, None] * y_row + outs[None, :], result, mask=is_row & is_out)
