"""Convolution of few channels on the tensor cores: stems, and groups of a grouped convolution.

Idea: a block copies the patch of the image that its tile of pixels needs into shared memory, once,
and multiplies from there. The inner axis of the product goes over pairs of elements that lie side
by side in the patch: (tap, channel) pairs of one row of the window follow each other, so that
nothing is padded per tap. A table says where in the patch each pair is, relative to a pixel. Where
a row of the window starts at an odd element, its first pair starts one element early and the
foreign element is masked (not multiplied by zero: it may be infinite).
Columns of the product are permuted such that a thread ends up with 8 consecutive filters.
Grid: a block per tile of pixels, slab of filters, group and image; slabs and groups first.
Bytes moved: the image once and halos from L2, weights per block from L2, the result once.
Bytes: a word holds four channels of a pixel, those that are none have weights of zero; sums are
integers. Limits: 16-bit floats or bytes, one or two axes. Architectures: sm_80 and later.
"""

from __future__ import annotations

from torch2rt.kernels.cuda.convolution_finish import (
    extra_arguments,
    extra_parameters,
    finish_function,
)
from torch2rt.kernels.cuda.convolution_shape import axis_constants
from torch2rt.kernels.cuda.mma import MMA
from torch2rt.kernels.cuda.patch_plan import CHUNK, PatchPlan, copied_vector
from torch2rt.kernels.cuda.prelude import PRELUDE

NAME = "t2r_patch_convolution"
_ALL = 0xFFFFFFFF
_SUMS = """
// A sum as a float. Those of up to 256 products of bytes stay below 2^22.
T2R_DEVICE float summed(float sum) { return sum; }
T2R_DEVICE float summed(i32 sum) {
    return TAPS * GROUP_IN <= 256 ? t2r_small_to_float(sum) : (float)sum;
}
"""


def patch_source(plan: PatchPlan) -> str:
    """The kernel ``(x, weight, out, extras...)``; weight as `pack_patch_weight` makes it."""
    shape = plan.shape
    tiles_h, tiles_w = (-(-shape.result[axis] // plan.tile[axis - 1]) for axis in (1, 2))
    pixel, strides = plan.pixel, shape.x.strides
    is_last = strides[1] == 1 and strides[4] == shape.in_channels == pixel
    is_chunked = plan.interleaved and all(strides[axis] % CHUNK == 0 for axis in (0, 3))
    is_plain = strides[4] == 1 and strides[1] % CHUNK == 0
    masks = [_mask(word) for word in plan.words]
    masks += [0 if plan.item_bytes > 1 else _ALL] * (plan.steps * 8 - len(masks))
    # What fills up the last step reads the first word, which is aligned as all are.
    words = [*plan.words, *[plan.words[0]] * (plan.steps * 8 - len(plan.words))]
    offsets = [plan.item_bytes * offset for offset, *_ in words]
    masked = [any(mask != _ALL for mask in masks[i : i + 8]) for i in range(0, len(masks), 8)]
    constants = {
        "WARPS": plan.warps, "TILES": plan.tiles, "TILE_H": plan.tile[0], "TILE_W": plan.tile[1],
        "SLAB": plan.slab, "SLABS": plan.slabs, "PIXEL": pixel, "ROW": plan.row,
        "ROWS": plan.rows, "COLUMNS": plan.columns, "STEPS": plan.steps,
        "TILES_H": tiles_h, "TILES_W": tiles_w, "PATCH_BYTES": plan.patch_bytes,
        "WEIGHT_BYTES": plan.steps * plan.slab * 32,
        "COPIED": 1 if plan.interleaved else copied_vector(shape),
    }
    flags = {
        "INTERLEAVED": plan.interleaved, "ANY_MASKED": any(masked),
        "CHUNKS_LAST": is_chunked and is_last, "CHUNKS_PLAIN": is_chunked and is_plain,
    }
    source: str = (
        PRELUDE + MMA + axis_constants(shape) + f"typedef {plan.type} Half;\n"
        + f"typedef {'i32' if plan.type == 'i8' else 'float'} Sum;\n" + _SUMS
        + "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
        + "".join(f"constexpr bool {name} = {str(v).lower()};\n" for name, v in flags.items())
        + _table("int2", "OFFSETS", offsets) + _table("uint2", "MASKS", masks)
        + _flags_function("is_masked", masked) + finish_function(shape)
        + _STAGE + _KERNEL.replace("@NAME", NAME).replace("@THREADS", str(plan.threads))
        .replace("@PARAMETERS", extra_parameters(shape))
        .replace("@ARGUMENTS", extra_arguments(shape))
        .replace("@UNROLL", "unroll" if plan.steps <= 12 else "unroll 2")
    )
    return source


def _mask(word: tuple[int, ...]) -> int:
    """Of two halves: foreign ones may be infinite. Bytes are multiplied by zero."""
    if len(word) > 3:
        return _ALL
    return (0xFFFF if word[1] >= 0 else 0) | (0xFFFF0000 if word[2] >= 0 else 0)


def _table(type: str, name: str, values: list[int]) -> str:
    """Entry [step][t]: the values of the pairs t and t + 4 of a step."""
    entries = [
        f"{{{values[step + t]}{suffix}, {values[step + t + 4]}{suffix}}}"
        for suffix in ("u" if type == "uint2" else "",)
        for step in range(0, len(values), 8) for t in range(4)
    ]
    return f"__constant__ {type} {name}[{len(entries)}] = {{{', '.join(entries)}}};\n"


def _flags_function(name: str, flags: list[bool]) -> str:
    """A function of a step that the compiler evaluates where loops are unrolled."""
    words = [
        sum(flag << bit for bit, flag in enumerate(flags[i : i + 64]))
        for i in range(0, len(flags), 64)
    ]
    if all(flags) or not any(flags):
        return f"T2R_DEVICE bool {name}(int) {{ return {str(any(flags)).lower()}; }}\n"
    terms = [
        f"(step / 64 == {i} && ({word}ull >> (step % 64) & 1))" for i, word in enumerate(words)
    ]
    return f"T2R_DEVICE bool {name}(int step) {{ return {' || '.join(terms)}; }}\n"


_STAGE = r"""
template <int N> T2R_DEVICE void store_halves(Half* to, const Loaded<Half, N>& values) {
    store_loaded<Half, N>(to, values);
}
template <class T, int N> T2R_DEVICE void store_halves(T* to, const Loaded<i8, N>& values) {
    float taken[N];
    to_floats<i8, N>(taken, values);
    store_floats<T, N>(to, taken);
}

T2R_DEVICE i8 to_half(i8 value, i8) { return value; }
T2R_DEVICE f16 to_half(f16 value, f16) { return value; }
T2R_DEVICE bf16 to_half(bf16 value, bf16) { return value; }
template <class T> T2R_DEVICE T to_half(i8 value, T) { return from_float<T>(to_float(value)); }

// 8 pixels of a row, all channels, from column z of row y of the image on.
T2R_DEVICE void copy_chunk(Half* to, const In* image, int y, int z) {
    Vec<Half, 8 * PIXEL> made = Vec<Half, 8 * PIXEL>();
    const bool has_row = (unsigned)y < (unsigned)IMAGE_H;
    const In* const row = image + y * X_STRIDE_H + z * X_STRIDE_W;
    if (has_row && (CHUNKS_LAST || CHUNKS_PLAIN) && z >= 0 && z + 8 <= IMAGE_W) {
        if (CHUNKS_LAST) {
#pragma unroll
            for (int i = 0; i < PIXEL; i++) {
                const Vec<In, 8> piece = load_vec<In, 8>(row + i * 8);
#pragma unroll
                for (int j = 0; j < 8; j++) made[i * 8 + j] = to_half(piece[j], Half());
            }
        } else {
#pragma unroll
            for (int c = 0; c < GROUP_IN; c++) {
                const Vec<In, 8> piece = load_vec<In, 8>(row + c * X_STRIDE_C);
#pragma unroll
                for (int j = 0; j < 8; j++) made[j * PIXEL + c] = to_half(piece[j], Half());
            }
        }
    } else if (has_row && !((CHUNKS_LAST || CHUNKS_PLAIN) && IMAGE_W % 8 == 0)) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if ((unsigned)(z + j) >= (unsigned)IMAGE_W) continue;
#pragma unroll
            for (int c = 0; c < GROUP_IN; c++)
                made[j * PIXEL + c] =
                    to_half(row[j * X_STRIDE_W + c * X_STRIDE_C], Half());
        }
    }
    store_vec<Half, 8 * PIXEL>(to, made);
}

template <int THREADS>
T2R_DEVICE void copy_patch(Half* patch, const In* image, int top, int left, int thread) {
    constexpr int CHUNKS = COLUMNS / 8;
    if (CHUNKS_LAST && IMAGE_W % 8 == 0) {
        // 8 elements at once: chunks lie wholly inside or wholly outside.
        constexpr int VECTORS = CHUNKS * PIXEL;
#pragma unroll 6
        for (int i = thread; i < ROWS * VECTORS; i += THREADS) {
            const int y = i / VECTORS, v = i % VECTORS, z = v / PIXEL * 8;
            const bool is_inside = (unsigned)(top + y) < (unsigned)IMAGE_H
                && (unsigned)(left + z) < (unsigned)IMAGE_W;
            store_halves(patch + y * ROW + v * 8, load_if<In, 8>(
                is_inside, image + (top + y) * X_STRIDE_H + left * X_STRIDE_W + v * 8));
        }
    } else if (INTERLEAVED) {
#pragma unroll 2
        for (int i = thread; i < ROWS * CHUNKS; i += THREADS) {
            const int y = i / CHUNKS, z = i % CHUNKS * 8;
            copy_chunk(patch + y * ROW + z * PIXEL, image, top + y, left + z);
        }
    } else {
        constexpr int VECTORS = GROUP_IN / COPIED;
#pragma unroll 8
        for (int i = thread; i < ROWS * COLUMNS * VECTORS; i += THREADS) {
            const int c = i % VECTORS * COPIED, z = i / VECTORS % COLUMNS;
            const int y = i / (VECTORS * COLUMNS);
            const bool is_inside = (unsigned)(top + y) < (unsigned)IMAGE_H
                && (unsigned)(left + z) < (unsigned)IMAGE_W;
            store_halves(patch + y * ROW + z * PIXEL + c, load_if<In, COPIED>(
                is_inside,
                image + (top + y) * X_STRIDE_H + (left + z) * X_STRIDE_W + c * X_STRIDE_C));
        }
    }
}
"""

_KERNEL = r"""
T2R_DEVICE u32 load_pair(const u8* address) {
    T2R_CHECK_ALIGNED(address, 4);
    return *(const u32*)address;
}
extern "C" __global__ void __launch_bounds__(@THREADS) @NAME(
    const In* x, const uint4* __restrict__ weight,
    Result* __restrict__ out@PARAMETERS
) {
    extern __shared__ __align__(16) u8 shared[];
    Half* const patch = (Half*)shared;
    uint4* const weights = (uint4*)(shared + PATCH_BYTES);
    int2* const offsets = (int2*)(shared + PATCH_BYTES + WEIGHT_BYTES);
    uint2* const masks = (uint2*)(offsets + STEPS * 4);

    const int thread = threadIdx.x, warp = thread / 32, g = thread % 32 / 4, t = thread % 4;
    int block = blockIdx.x;
    const int slab = block % SLABS, group = block / SLABS % GROUPS;
    block /= SLABS * GROUPS;
    const int w0 = block % TILES_W * TILE_W;
    block /= TILES_W;
    const int h0 = block % TILES_H * TILE_H, n = block / TILES_H;

    const uint4* const my_weight = weight + (group * SLABS + slab) * (WEIGHT_BYTES / 16);
#pragma unroll 8
    for (int i = thread; i < WEIGHT_BYTES / 16; i += @THREADS) weights[i] = my_weight[i];
    for (int i = thread; i < STEPS * 4; i += @THREADS) {
        offsets[i] = OFFSETS[i];
        masks[i] = MASKS[i];
    }
    t2r_wait();
    const int top = h0 * STRIDE_H - BEFORE_H, first = w0 * STRIDE_W - BEFORE_W;
    // Chunks start at columns that are multiples of 8.
    const int left = INTERLEAVED ? first & ~7 : first;
    const In* const image = x + n * X_STRIDE_N + (Index)group * GROUP_IN * X_STRIDE_C;
    copy_patch<@THREADS>(patch, image, top, left, thread);
    __syncthreads();

    constexpr int COLUMN_TILES = SLAB / 8;
    Sum sums[TILES][COLUMN_TILES][4];
    const u8* pixels[TILES][2];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int p = (warp * TILES + i) * 16 + half * 8 + g;
            pixels[i][half] = (const u8*)(patch + p / TILE_W * STRIDE_H * ROW
                + (p % TILE_W * STRIDE_W + first - left) * PIXEL);
        }
#pragma unroll
        for (int j = 0; j < COLUMN_TILES * 4; j++) sums[i][j / 4][j % 4] = 0;
    }
#pragma @UNROLL
    for (int step = 0; step < STEPS; step++) {
        const int2 offset = offsets[step * 4 + t];
        uint2 mask = make_uint2(0xffffffffu, 0xffffffffu);
        if (ANY_MASKED && is_masked(step)) mask = masks[step * 4 + t];
        u32 b[COLUMN_TILES][2];
#pragma unroll
        for (int j = 0; j < COLUMN_TILES / 2; j++) {
            const uint4 words = weights[(step * (COLUMN_TILES / 2) + j) * 32 + thread % 32];
            b[2 * j][0] = words.x;
            b[2 * j][1] = words.y;
            b[2 * j + 1][0] = words.z;
            b[2 * j + 1][1] = words.w;
        }
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            u32 a[4];
            a[0] = load_pair(pixels[i][0] + offset.x) & mask.x;
            a[1] = load_pair(pixels[i][1] + offset.x) & mask.x;
            a[2] = load_pair(pixels[i][0] + offset.y) & mask.y;
            a[3] = load_pair(pixels[i][1] + offset.y) & mask.y;
#pragma unroll
            for (int j = 0; j < COLUMN_TILES; j++) t2r_mma<Half>(sums[i][j], a, b[j]);
        }
    }
#pragma unroll
    for (int i = 0; i < TILES * 2; i++) {
        const int p = (warp * TILES + i / 2) * 16 + i % 2 * 8 + g;
        const int h = h0 + p / TILE_W, w = w0 + p % TILE_W;
        if (h >= RESULT_H || w >= RESULT_W) continue;
#pragma unroll
        for (int j = 0; j < COLUMN_TILES; j += 4) {
            constexpr int REST = COLUMN_TILES % 4;
            if (j + 4 <= COLUMN_TILES) {
                float values[8];
#pragma unroll
                for (int k = 0; k < 8; k++)
                    values[k] = summed(sums[i / 2][j + k / 2 < COLUMN_TILES ? j + k / 2 : 0]
                                           [i % 2 * 2 + k % 2]);
                const int filter = slab * SLAB + j * 8 + t * 8;
                if (filter < GROUP_OUT)
                    finish<8>(values, n, 0, h, w, group * GROUP_OUT + filter, out@ARGUMENTS);
            } else if (REST) {
                float values[4];
#pragma unroll
                for (int k = 0; k < 4; k++)
                    values[k] = summed(sums[i / 2][j + k / 2 < COLUMN_TILES ? j + k / 2 : 0]
                                           [i % 2 * 2 + k % 2]);
                const int filter = slab * SLAB + j * 8 + t * 4;
                if (filter < GROUP_OUT)
                    finish<4>(values, n, 0, h, w, group * GROUP_OUT + filter, out@ARGUMENTS);
            }
        }
    }
}
"""
