# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Convolution over two axes, fed by the copy engine: a tile of pixels is a box of the image.

x [n, h, w, c], y [n, p, q, k] and epilogue matrices are tensor maps, c and k dense; weights are a
map of [k, R * S * c]. A tile is IMAGES x ROWS x COLUMNS pixels by BLOCK_N of k; for each tap the
box of x moves, and what lies outside the image arrives as zeros: padding costs nothing. With
STRIDE 2, x is seen as [n, h / 2, 2, w / 2, 2 * x_column], so that a tap's box is dense again.
The weights are the left operand: of a reshaped box, the compiler would make registers there.
Blocks are persistent and loops flattened as in gemm_tma; in convolution_tma_split, blocks share
tiles as in gemm_tma_split. Bytes moved: x once per tap and column of tiles, mostly from the L2;
weights once per row of tiles; y once. Architectures: sm_90 and newer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch2rt.kernels.triton.common import (
    fetch_ahead,
    start,
    sum_parts,
    sum_type,
    tile_of,
    to_float,
    write_part,
)


@triton.jit
def epilogue(acc, i1, i2, i3):
    """What is stored for an accumulator; replaced by the layer's own."""
    return acc


@triton.jit
def read_box(
    x, image, row, column, tap, block, x_column,
    S: tl.constexpr, STRIDE: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
):
    """The pixels that a tap multiplies, BLOCK_K channels from ``block`` on."""
    dh = tap // S * DILATION_H - PAD_H
    dw = tap % S * DILATION_W - PAD_W
    if STRIDE == 1:
        return x.load([image, row + dh, column + dw, block])
    else:
        # Arithmetic shifts and masks: floor and parity of negative offsets too.
        parity = (dw & 1) * x_column
        return x.load([image, row + (dh >> 1), dh & 1, column + (dw >> 1), parity + block])


@triton.jit
def read_extra(
    operand, image, row, column, out, k,
    KIND: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """The tile of an epilogue operand in float32: "none", "scalar", "column" [k] or "map"."""
    if KIND == "scalar":
        return to_float(tl.load(operand))
    elif KIND == "column":
        outs = out + tl.arange(0, BLOCK_N)
        return to_float(tl.load(operand + outs, mask=outs < k, other=0.0))[None, :]
    elif KIND == "map":
        return to_float(operand.load([image, row, column, out]).reshape(BLOCK_M, BLOCK_N))
    else:
        return 0.0


@triton.jit
def convolution_tma(
    x, w, y, e1, e2, e3, weights, images, rows, columns, k, c, x_column,
    weights_pitch,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, PAD_H: tl.constexpr,
    PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, OVERLAPS: tl.constexpr,
):
    """Grid: (number of blocks,). ``images``, ``rows`` and ``columns`` are those of y.

    ``weights`` is w by address, or None.
    """
    BLOCK_M: tl.constexpr = IMAGES * ROWS * COLUMNS
    boxes_down = tl.cdiv(rows, ROWS)
    boxes_across = tl.cdiv(columns, COLUMNS)
    tiles_m = tl.cdiv(images, IMAGES) * boxes_down * boxes_across
    tiles_n = tl.cdiv(k, BLOCK_N)
    blocks = tl.cdiv(c, BLOCK_K)
    _, first = tile_of(tl.program_id(0), tiles_m, tiles_n, GROUP)
    fetch_ahead(
        weights, weights_pitch, first * BLOCK_N, k, 0, weights_pitch, BLOCK_N, OVERLAPS
    )
    start(OVERLAPS)
    for index in tl.range(
        tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True
    ):
        tile_row, tile_column = tile_of(index, tiles_m, tiles_n, GROUP)
        image = tile_row // (boxes_down * boxes_across) * IMAGES
        row = tile_row // boxes_across % boxes_down * ROWS
        column = tile_row % boxes_across * COLUMNS
        out = tile_column * BLOCK_N
        SUM: tl.constexpr = sum_type(x.dtype)
        acc = tl.zeros((BLOCK_N, BLOCK_M), SUM)
        for step in range(R * S * blocks):
            tap = step // blocks
            block = step % blocks * BLOCK_K
            pixels = read_box(
                x, image, row, column, tap, block, x_column, S, STRIDE, PAD_H, PAD_W,
                DILATION_H, DILATION_W,
            ).reshape(BLOCK_M, BLOCK_K)
            taps = w.load([out, tap * c + block])
            acc = tl.dot(taps, pixels.T, acc, input_precision=PRECISION, out_dtype=SUM)
        i1 = read_extra(e1, image, row, column, out, k, E1, BLOCK_M, BLOCK_N)
        i2 = read_extra(e2, image, row, column, out, k, E2, BLOCK_M, BLOCK_N)
        i3 = read_extra(e3, image, row, column, out, k, E3, BLOCK_M, BLOCK_N)
        result = epilogue(acc.T, i1, i2, i3).to(y.dtype)
        y.store([image, row, column, out], result.reshape(IMAGES, ROWS, COLUMNS, BLOCK_N))


@triton.jit
def convolution_tma_split(
    x, w, y, e1, e2, e3, partial, counters, weights, images, rows, columns, k, c,
    x_column, weights_pitch,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, PAD_H: tl.constexpr,
    PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, OVERLAPS: tl.constexpr, PARTS: tl.constexpr,
):
    """Grid: (tiles, PARTS). ``weights`` is w by address, or None."""
    BLOCK_M: tl.constexpr = IMAGES * ROWS * COLUMNS
    boxes_down = tl.cdiv(rows, ROWS)
    boxes_across = tl.cdiv(columns, COLUMNS)
    tiles_m = tl.cdiv(images, IMAGES) * boxes_down * boxes_across
    tiles_n = tl.cdiv(k, BLOCK_N)
    blocks = tl.cdiv(c, BLOCK_K)
    steps = R * S * blocks
    index = tl.program_id(0)
    part = tl.program_id(1)
    tile_row, tile_column = tile_of(index, tiles_m, tiles_n, GROUP)
    image = tile_row // (boxes_down * boxes_across) * IMAGES
    row = tile_row // boxes_across % boxes_down * ROWS
    column = tile_row % boxes_across * COLUMNS
    out = tile_column * BLOCK_N
    fetch_ahead(
        weights, weights_pitch, out, k, part * weights_pitch // PARTS,
        (part + 1) * weights_pitch // PARTS, BLOCK_N, OVERLAPS,
    )
    start(OVERLAPS)
    SUM: tl.constexpr = sum_type(x.dtype)
    acc = tl.zeros((BLOCK_N, BLOCK_M), SUM)
    for step in range(part * steps // PARTS, (part + 1) * steps // PARTS):
        tap = step // blocks
        block = step % blocks * BLOCK_K
        pixels = read_box(
            x, image, row, column, tap, block, x_column, S, STRIDE, PAD_H, PAD_W, DILATION_H,
            DILATION_W,
        ).reshape(BLOCK_M, BLOCK_K)
        taps = w.load([out, tap * c + block])
        acc = tl.dot(taps, pixels.T, acc, input_precision=PRECISION, out_dtype=SUM)
    write_part(acc, partial, index, part, PARTS, BLOCK_N, BLOCK_M)
    if tl.atomic_add(counters + index, 1, sem="acq_rel") == PARTS - 1:
        tl.store(counters + index, 0)
        total = sum_parts(partial, index, PARTS, BLOCK_N, BLOCK_M)
        i1 = read_extra(e1, image, row, column, out, k, E1, BLOCK_M, BLOCK_N)
        i2 = read_extra(e2, image, row, column, out, k, E2, BLOCK_M, BLOCK_N)
        i3 = read_extra(e3, image, row, column, out, k, E3, BLOCK_M, BLOCK_N)
        result = epilogue(total.T, i1, i2, i3).to(y.dtype)
        y.store([image, row, column, out], result.reshape(IMAGES, ROWS, COLUMNS, BLOCK_N))
