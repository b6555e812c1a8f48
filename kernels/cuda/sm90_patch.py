"""Convolution on Hopper's tensor cores from a patch of the image in shared memory.

Idea: gathering pixels tap by tap reads the image from the L2 once per tap, which bounds layers of
few filters. Here a block copies the patch that its tile of pixels needs once. The rows of the
product are consecutive cells of the patch (see sm90_patch_plan.py), over the patch's whole width:
a tap is a constant distance, so that wgmma reads both operands where they lie. Pixels between the
rows of the result are computed and dropped.
Columns of the product are permuted such that a thread ends up with 8 consecutive filters.
Grid: persistent, a few blocks of two warpgroups per multiprocessor. The weights are copied once per
block, patches while the other blocks (or, with two buffers, this one) multiply.
Bytes moved: the image once and halos from the L2, weights once per block, the result once.
Limits: one group, two axes; deep images have whole pairs of 16 bytes per pixel and stride 1, stems
are bytes of up to 4 channels. Architectures: sm_90a alone. Source: PTX ISA, wgmma, descriptors
without swizzling.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch2rt.kernels.cuda.convolution_finish import (
    channel_extras,
    extra_arguments,
    extra_parameters,
    finish_function,
    read_channels_call,
)
from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape, axis_constants
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.kernels.cuda.sm90_cells import cells_source
from torch2rt.kernels.cuda.sm90_patch_plan import STEP_CELLS, THREADS, Sm90PatchPlan

NAME = "t2r_sm90_patch"
# Products of bytes whose sum stays below 2^22, which converts to float at full rate.
_MOST_SMALL_TERMS = 256
# For values per channel, which would otherwise be read for every pixel.
_HELD_REGISTERS = 32


def sm90_patch_source(plan: Sm90PatchPlan) -> str:
    """The kernel ``(x, weight, out, extras...)``; weight as `pack_sm90_weight` makes it."""
    shape = plan.shape
    images, tiles_h, tiles_w = plan.tiles
    constants = {
        "TILE_H": plan.tile[0], "TILE_W": plan.tile[1], "TILES_H": tiles_h, "TILES_W": tiles_w,
        "TILES": images * tiles_h * tiles_w, "ROWS": plan.rows, "ROW_CELLS": plan.row_cells,
        "PLANE_CELLS": plan.plane_cells, "PATCH_CELLS": plan.patch_cells, "CHUNKS": plan.chunks,
        "PHASES": plan.phases, "COPIES": plan.copies, "LEAD": plan.lead,
        "PRODUCTS": plan.products, "BUFFERS": plan.buffers, "WEIGHT_CELLS": plan.weight_cells,
        "CHANNELS_LAST": int(shape.x.strides[1] == 1 and shape.in_channels > 1),
        "LEADING_BYTES": 16 if plan.is_stem else plan.plane_cells * 16,
    }
    held = channel_extras(shape, _HELD_REGISTERS // (plan.filters // 4))
    small = shape.taps * shape.in_channels <= _MOST_SMALL_TERMS
    convert = "t2r_small_to_float(sum)" if plan.type == "i8" and small else "(float)sum"
    source: str = (
        PRELUDE + axis_constants(shape)
        + "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
        + cells_source(plan.type, plan.filters)
        + f"T2R_DEVICE float summed(Sum sum) {{ return {convert}; }}\n"
        + _multiply(plan) + finish_function(shape, held)
        + (_STEM if plan.is_stem else _DEEP)
        + _KERNEL.replace("@NAME", NAME).replace("@THREADS", str(THREADS))
        .replace("@BLOCKS", str(plan.blocks))
        .replace("@PARAMETERS", extra_parameters(shape))
        .replace("@ARGUMENTS", extra_arguments(shape) + "".join(
            f", held{number}[j / 4]" for number in held
        ))
        .replace("@HOLD", _hold(shape, held))
    )
    return source


def _hold(shape: ConvolutionShape, held: Sequence[int]) -> str:
    """C++ that reads per-channel operands once: a thread's filters are the same in all products."""
    declared = "".join(f"    float held{number}[BN / 32][8];\n" for number in held)
    reads = "\n".join(
        f"        {read_channels_call(shape, number, f'held{number}[group]', 'filter')}"
        for number in held
    )
    if not held:
        return ""
    return f"""{declared}#pragma unroll
    for (int group = 0; group < BN / 32; group++) {{
        constexpr int V = 8;
        const int filter = group * 32 + t * 8;
{reads}
    }}
"""


def _multiply(plan: Sm90PatchPlan) -> str:
    """``multiply(d, a, b)``: d = a b over all of k."""
    steps = "\n".join(
        f"    multiply_step(d, a + {offset}u, b + {step * STEP_CELLS * plan.filters}u, "
        f"{int(step > 0)});"
        for step, offset in enumerate(plan.step_offsets)
    )
    return f"""
T2R_DEVICE void multiply(Sum (&d)[BN / 2], u64 a, u64 b) {{
    products_begin(d);
{steps}
    products_end(d);
}}
"""


_DEEP = r"""
// The patch from row ``top`` and column ``left`` of an image on: cells in planes.
T2R_DEVICE void copy_patch(u32 patch, const In* image, int top, int left) {
    constexpr int ITEMS = ROWS * ROW_CELLS * CHUNKS, PER_CELL = 16 / (int)sizeof(In);
#pragma unroll 4
    for (int i = threadIdx.x; i < ITEMS; i += 256) {
        const int chunk = i % CHUNKS, pixel = i / CHUNKS;
        const int y = pixel / ROW_CELLS, h = top + y, w = left + pixel % ROW_CELLS;
        const bool is_inside = (unsigned)h < (unsigned)IMAGE_H && (unsigned)w < (unsigned)IMAGE_W;
        const In* const from = image + (is_inside ? h * X_STRIDE_H + w * X_STRIDE_W : 0);
        copy_cell(patch + (chunk * PLANE_CELLS + pixel) * 16, from + chunk * PER_CELL, is_inside);
    }
}
"""

_STEM = r"""
T2R_DEVICE u32 word_at(const In* address) {
    T2R_CHECK_ALIGNED(address, 4);
    return *(const u32*)address;
}
T2R_DEVICE u32 bytes_of(u32 a, u32 b, int first) { return a >> 8 * first | b << (32 - 8 * first); }
// Four pixels of four bytes, from whole words of the image.
T2R_DEVICE uint4 four_pixels(const In* at) {
    if (CHANNELS_LAST && CHANNELS == 4)
        return make_uint4(word_at(at), word_at(at + 4), word_at(at + 8), word_at(at + 12));
    if (CHANNELS_LAST) {
        const u32 a = word_at(at), b = word_at(at + 4), c = word_at(at + 8);
        return make_uint4(a & 0xffffff, bytes_of(a, b, 3) & 0xffffff, bytes_of(b, c, 2) & 0xffffff,
                          c >> 8);
    }
    u32 pixels[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) {
        const u32 word = word_at(at + c * X_STRIDE_C);
#pragma unroll
        for (int i = 0; i < 4; i++) pixels[i] |= (word >> 8 * i & 255) << 8 * c;
    }
    return make_uint4(pixels[0], pixels[1], pixels[2], pixels[3]);
}
T2R_DEVICE void copy_patch(u32 patch, const In* image, int top, int first) {
    const int left = first - LEAD;
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * ROW_CELLS; i += 256) {
        const int y = i / ROW_CELLS, cell = i % ROW_CELLS, h = top + y, w = left + cell * 4;
        uint4 four = make_uint4(0, 0, 0, 0);
        if ((unsigned)h < (unsigned)IMAGE_H && (unsigned)w < (unsigned)IMAGE_W)
            four = four_pixels(image + h * X_STRIDE_H + w * X_STRIDE_W);
        const u32 to = patch + (y % PHASES * PLANE_CELLS + y / PHASES * ROW_CELLS + cell) * 16;
        put_words(to, four.x, four.y);
        put_words(to + 8, four.z, four.w);
        constexpr int STEP = 16 / COPIES;  // bytes that a copy lies further on
#pragma unroll
        for (int copy = 1; copy < COPIES; copy++) {
            const u32 other = to + copy * (PHASES * PLANE_CELLS * 16 - STEP);
            if (cell > 0) put_words(other, four.x, four.y);
            put_words(other + 8, four.z, four.w);
        }
    }
}
"""

_KERNEL = r"""
T2R_DEVICE void copy_tile(u32 patch, const In* x, int tile) {
    const int w0 = tile % TILES_W * TILE_W, rest = tile / TILES_W;
    copy_patch(patch, x + rest / TILES_H * X_STRIDE_N,
               rest % TILES_H * TILE_H * STRIDE_H - BEFORE_H, w0 * STRIDE_W - BEFORE_W);
    copies_commit();
}

extern "C" __global__ void __launch_bounds__(@THREADS, @BLOCKS) @NAME(
    const In* x, const uint4* __restrict__ weight,
    Result* __restrict__ out@PARAMETERS
) {
    const u32 patches = shared_start();
    const u32 weights = patches + BUFFERS * PATCH_CELLS * 16;
    const int group = threadIdx.x / 128, warp = threadIdx.x % 128 / 32;
    const int lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll 8
    for (int i = threadIdx.x; i < WEIGHT_CELLS; i += @THREADS)
        copy_cell(weights + i * 16, weight + i, true);
    t2r_wait();
@HOLD    int tile = blockIdx.x, buffer = 0;
    if (tile < TILES) copy_tile(patches, x, tile);
    for (; tile < TILES; tile += gridDim.x) {
        const int next = tile + gridDim.x;
        if (BUFFERS > 1) {
            if (next < TILES)
                copy_tile(patches + (buffer ^ 1) * PATCH_CELLS * 16, x, next);
            else
                copies_commit();
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        publish();
        __syncthreads();
        const int w0 = tile % TILES_W * TILE_W, rest = tile / TILES_W;
        const int h0 = rest % TILES_H * TILE_H, n = rest / TILES_H;
        const u32 patch = patches + buffer * PATCH_CELLS * 16;
#pragma unroll 1
        for (int product = group; product < COPIES * PRODUCTS; product += 2) {
            const int copy = product % COPIES, first = product / COPIES * 64;
            Sum sums[BN / 2];
            multiply(sums,
                     describe(patch + (copy * PHASES * PLANE_CELLS + first) * 16, LEADING_BYTES),
                     describe(weights, BN * 16));
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = first + warp * 16 + half * 8 + lane / 4;
                const int y = row / ROW_CELLS, column = row % ROW_CELLS * COPIES + copy;
                const int h = h0 + y, w = w0 + column;
                if (y >= TILE_H || column >= TILE_W || h >= RESULT_H || w >= RESULT_W) continue;
#pragma unroll
                for (int j = 0; j < BN / 8; j += 4) {
                    float values[8];
#pragma unroll
                    for (int k = 0; k < 8; k++)
                        values[k] = summed(sums[4 * (j + k / 2) + 2 * half + k % 2]);
                    const int filter = j * 8 + t * 8;
                    if (BN == FILTERS || filter < FILTERS)
                        finish<8>(values, n, 0, h, w, filter, out@ARGUMENTS);
                }
            }
        }
        __syncthreads();  // nobody reads the patch any more
        if (BUFFERS > 1) buffer ^= 1;
        else if (next < TILES) copy_tile(patches, x, next);
    }
}
"""
