"""Depthwise convolution of channels-last images: every channel has a window of its own.

Idea: a thread makes TILE_H x TILE_W pixels of VECTOR channels. It walks over the rows of its input
patch, loads a row as vectors of 16 bytes, and adds each value to all sums that it belongs to; the
weights of its channels stay in registers. Neighbouring threads share input through the L1 cache.
Grid: one block per slab of channels and tile of pixels and image, slabs first.
Bytes moved: the image and the result once, halos of the blocks come from L2.
Limits: as many filters as channels, one or two axes. Architectures: all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt.kernels.cuda.convolution_finish import (
    extra_arguments,
    extra_parameters,
    finish_function,
)
from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape, axis_constants
from torch2rt.kernels.cuda.prelude import PRELUDE

NAME = "t2r_depthwise_convolution"
# Weights that a thread keeps in registers, and multiply-adds that are unrolled.
_MAX_REGISTER_WEIGHTS = 80
_MAX_UNROLLED = 2500


@dataclass(frozen=True, slots=True)
class DepthwiseTiles:
    """How the work is cut: sizes of a thread's piece, and threads of a block along each axis."""

    vector: int
    tile: tuple[int, int]
    slots: int
    block: tuple[int, int]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.slots * math.prod(self.block)

    def grid(self, shape: ConvolutionShape) -> int:
        """Blocks of the launch."""
        slabs, rows, columns = self.counts(shape)
        blocks: int = slabs * rows * columns * shape.batch
        return blocks

    def counts(self, shape: ConvolutionShape) -> tuple[int, int, int]:
        """Slabs of channels, tiles of rows and of columns that blocks make."""
        return (
            -(-shape.out_channels // (self.vector * self.slots)),
            -(-shape.result[1] // (self.tile[0] * self.block[0])),
            -(-shape.result[2] // (self.tile[1] * self.block[1])),
        )


def choose_tiles(
    shape: ConvolutionShape, tile: tuple[int, int], max_vector: int, threads: int
) -> DepthwiseTiles:
    """Tiles for a thread's piece of pixels; blocks hold about 128 bytes of channels of a pixel."""
    tile = clipped(tile, shape.result[1:])
    vector = min(
        max_vector, shape.x.vector, _divisor(shape.in_channels), 16 // shape.x.itemsize_bytes
    )
    groups = -(-shape.in_channels // vector)
    slots = _slots(groups, max(1, 128 // (vector * shape.x.itemsize_bytes)))
    columns = -(-shape.result[2] // tile[1])
    rows = -(-shape.result[1] // tile[0])
    pixels = max(1, threads // slots)
    width = min(columns, max(1, 1 << (math.isqrt(pixels).bit_length() - 1)))
    if columns <= pixels // max(1, min(rows, 2)) and columns <= 2 * width:
        width = columns
    height = min(rows, max(1, pixels // width))
    return DepthwiseTiles(vector, tile, slots, (height, width))


def clipped(tile: tuple[int, int], result: Sequence[int]) -> tuple[int, int]:
    """A piece no larger than the result, whose sizes are (rows, columns)."""
    return min(tile[0], result[0]), min(tile[1], result[1])


def _divisor(count: int) -> int:
    """The largest power of two up to 8 that divides it."""
    return math.gcd(count, 8)


def _slots(groups: int, wanted: int) -> int:
    """Vectors of channels of a block: a count near ``wanted`` that wastes few threads."""
    if groups <= wanted:
        return groups
    def waste(slots: int) -> tuple[float, int]:
        return -(-groups // slots) * slots / groups, abs(slots - wanted)
    return min(range(max(1, wanted // 2), 2 * wanted + 1), key=waste)


def depthwise_source(shape: ConvolutionShape, tiles: DepthwiseTiles) -> str:
    """The kernel ``(x, weight, out, extras...)``; weight: floats [kernel_h, kernel_w, channels]."""
    rows = (tiles.tile[0] - 1) * shape.stride[1] + (shape.kernel[1] - 1) * shape.dilation[1] + 1
    columns = (tiles.tile[1] - 1) * shape.stride[2] + (shape.kernel[2] - 1) * shape.dilation[2] + 1
    work = shape.taps * math.prod(tiles.tile) * tiles.vector
    unrolls = work <= _MAX_UNROLLED
    slabs, tiles_h, tiles_w = tiles.counts(shape)
    constants = {
        "V": tiles.vector, "TILE_H": tiles.tile[0], "TILE_W": tiles.tile[1],
        "SLOTS": tiles.slots, "BLOCK_W": tiles.block[1], "BLOCK_H": tiles.block[0],
        "SLABS": slabs, "TILES_H": tiles_h, "TILES_W": tiles_w,
        "PATCH_H": rows, "PATCH_W": columns,
    }
    holds = unrolls and shape.taps * tiles.vector <= _MAX_REGISTER_WEIGHTS
    source: str = (
        PRELUDE + axis_constants(shape)
        + "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
        + f"constexpr bool HOLDS_WEIGHTS = {'true' if holds else 'false'};\n"
        + finish_function(shape)
        + _KERNEL.replace("@NAME", NAME).replace("@THREADS", str(tiles.threads))
        .replace("@UNROLL_ROWS", "unroll" if unrolls else "unroll 1")
        .replace("@UNROLL_COLUMNS", "unroll" if unrolls or columns <= 16 else "unroll 1")
        .replace("@PARAMETERS", extra_parameters(shape))
        .replace("@ARGUMENTS", extra_arguments(shape))
    )
    return source


_KERNEL = r"""
extern "C" __global__ void __launch_bounds__(@THREADS) @NAME(
    const In* x, const float* __restrict__ weight, Result* __restrict__ out@PARAMETERS
) {
    const int thread = threadIdx.x;
    const int slot = thread % SLOTS, column = thread / SLOTS % BLOCK_W;
    const int row = thread / (SLOTS * BLOCK_W);
    int block = blockIdx.x;
    const int slab = block % SLABS;
    block /= SLABS;
    const int tile_w = block % TILES_W;
    block /= TILES_W;
    const int tile_h = block % TILES_H, n = block / TILES_H;
    const int c = (slab * SLOTS + slot) * V;
    const int w0 = (tile_w * BLOCK_W + column) * TILE_W;
    const int h0 = (tile_h * BLOCK_H + row) * TILE_H;
    if (c >= CHANNELS || w0 >= RESULT_W || h0 >= RESULT_H) return;

    const float* const my_weight = weight + c;
    float held[HOLDS_WEIGHTS ? TAPS : 1][V];
    if (HOLDS_WEIGHTS) {
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++)
            load_floats<float, V>(held[HOLDS_WEIGHTS ? tap : 0], my_weight + tap * CHANNELS);
    }
    float sums[TILE_H][TILE_W][V];
#pragma unroll
    for (int i = 0; i < TILE_H * TILE_W * V; i++) ((float*)sums)[i] = 0.0f;
    t2r_wait();

    const int top = h0 * STRIDE_H - BEFORE_H, left = w0 * STRIDE_W - BEFORE_W;
    const In* const corner = x + n * X_STRIDE_N + c + top * X_STRIDE_H + left * X_STRIDE_W;
#pragma @UNROLL_ROWS
    for (int y = 0; y < PATCH_H; y++) {
        const bool has_row = (unsigned)(top + y) < (unsigned)IMAGE_H;
        Loaded<In, V> values[PATCH_W];
#pragma @UNROLL_COLUMNS
        for (int z = 0; z < PATCH_W; z++) {
            const bool is_inside = has_row && (unsigned)(left + z) < (unsigned)IMAGE_W;
            values[z] = load_if<In, V>(is_inside, corner + y * X_STRIDE_H + z * X_STRIDE_W);
        }
#pragma @UNROLL_COLUMNS
        for (int z = 0; z < PATCH_W; z++) {
            float value[V];
            to_floats<In, V>(value, values[z]);
#pragma unroll
            for (int th = 0; th < TILE_H; th++) {
                const int r = (y - th * STRIDE_H) / DILATION_H;
                if (y < th * STRIDE_H || (y - th * STRIDE_H) % DILATION_H || r >= KERNEL_H)
                    continue;
#pragma unroll
                for (int tw = 0; tw < TILE_W; tw++) {
                    const int s = (z - tw * STRIDE_W) / DILATION_W;
                    if (z < tw * STRIDE_W || (z - tw * STRIDE_W) % DILATION_W || s >= KERNEL_W)
                        continue;
                    const int tap = r * KERNEL_W + s;
                    if (HOLDS_WEIGHTS) {
#pragma unroll
                        for (int i = 0; i < V; i++)
                            sums[th][tw][i] += value[i] * held[HOLDS_WEIGHTS ? tap : 0][i];
                    } else {
                        float taken[V];
                        load_floats<float, V>(taken, my_weight + tap * CHANNELS);
#pragma unroll
                        for (int i = 0; i < V; i++) sums[th][tw][i] += value[i] * taken[i];
                    }
                }
            }
        }
    }
#pragma unroll
    for (int th = 0; th < TILE_H; th++) {
#pragma unroll
        for (int tw = 0; tw < TILE_W; tw++) {
            if (h0 + th < RESULT_H && w0 + tw < RESULT_W)
                finish<V>(sums[th][tw], n, 0, h0 + th, w0 + tw, c, out@ARGUMENTS);
        }
    }
}
"""
