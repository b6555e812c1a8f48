# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Convolution over two axes as a matrix product whose left operand is gathered on the way.

x [n, h, w, c] and y [n, p, q, k] with c and k dense (any strides else), weights
[k, R * S * channels] with ``channels`` a multiple of BLOCK_K (zeros behind c). A tile is BLOCK_M
pixels of y by BLOCK_N of k; the loop runs over taps and blocks of c, and what a tap reads outside
the image is zero. PARTS > 1 cuts the loop as gemm_tma_split does. Bytes moved: x once per tap and
column of tiles, mostly from the L2; weights once per row of tiles; y once.
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
def convolution(
    x, w, y, e1, e2, e3, partial, counters, m, k, c, channels, pixels, columns_out, rows_in,
    columns_in, x_image, x_row, x_column, y_row, e1_row, e2_row, e3_row,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    IS_EVEN_C: tl.constexpr, PRECISION: tl.constexpr, OVERLAPS: tl.constexpr, PARTS: tl.constexpr,
):
    """Grid: (tiles, PARTS). ``m`` counts pixels of y, ``pixels`` those of one image."""
    start(OVERLAPS)
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(k, BLOCK_N)
    blocks = channels // BLOCK_K
    steps = R * S * blocks
    index = tl.program_id(0)
    part = tl.program_id(1)
    tile_row, tile_column = tile_of(index, tiles_m, tiles_n, GROUP)
    row = tile_row * BLOCK_M
    column = tile_column * BLOCK_N
    rows = row + tl.arange(0, BLOCK_M)
    outs = column + tl.arange(0, BLOCK_N)
    cs = tl.arange(0, BLOCK_K)
    image = rows // pixels
    pixel = rows % pixels
    h = pixel // columns_out * STRIDE_H - PAD_H
    v = pixel % columns_out * STRIDE_W - PAD_W
    corner = image * x_image + h * x_row + v * x_column
    is_row = rows < m
    is_out = (outs < k)[None, :]
    first = part * steps // PARTS
    right_at = w + outs[None, :] * (R * S * channels) + (first * BLOCK_K + cs)[:, None]
    SUM: tl.constexpr = sum_type(x.dtype.element_ty)
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
    for step in range(first, (part + 1) * steps // PARTS):
        tap = step // blocks
        block = step % blocks * BLOCK_K
        dh = tap // S * DILATION_H
        dw = tap % S * DILATION_W
        is_inside = (
            is_row & (h + dh >= 0) & (h + dh < rows_in) & (v + dw >= 0) & (v + dw < columns_in)
        )
        left_at = x + (corner + dh * x_row + dw * x_column)[:, None] + (block + cs)[None, :]
        if IS_EVEN_C:
            left = tl.load(left_at, mask=is_inside[:, None], other=0.0)
        else:
            mask = is_inside[:, None] & (block + cs < c)[None, :]
            left = tl.load(left_at, mask=mask, other=0.0)
        right = tl.load(right_at, mask=is_out, other=0.0)
        acc = tl.dot(left, right, acc, input_precision=PRECISION, out_dtype=SUM)
        right_at += BLOCK_K
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
        tl.store(y + rows[:, None] * y_row + outs[None, :], result, mask=is_row[:, None] & is_out)
