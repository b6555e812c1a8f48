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
Limits: 16-bit floats (a float32 image is rounded to the weights' type as it is copied), one or two
axes. Architectures: sm_80 and later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torch2rt.kernels.cuda.convolution_finish import (
    extra_arguments,
    extra_parameters,
    finish_function,
)
from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape, axis_constants
from torch2rt.kernels.cuda.mma import MMA
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.network.dtype import Array

NAME = "t2r_patch_convolution"
# Pixels of a row that are copied together where channels are few.
CHUNK = 8
# Accumulator tiles of 16 x 8 that a warp holds, and filters of a block, at most.
_MAX_TILES, _MAX_SLAB = 32, 96


@dataclass(frozen=True)
class PatchPlan:
    """How a shape is cut and how its patch lies in shared memory. Lengths in elements.

    ``interleaved``: channels of neighbouring pixels lie side by side without a gap, copied in
    chunks of 8 pixels; else a pixel's channels are copied in vectors.
    ``pairs``: offset in the patch, and (row, column, channel) of the window for both elements,
    None where an element takes no part.
    """

    shape: ConvolutionShape
    type: str
    interleaved: bool
    warps: int
    tiles: int
    tile: tuple[int, int]
    slab: int
    pixel: int
    row: int
    rows: int
    columns: int
    pairs: tuple[tuple[int, int, int], ...]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def steps(self) -> int:
        """Steps of the product: 8 pairs each."""
        return -(-len(self.pairs) // 8)

    @property
    def slabs(self) -> int:
        """Slabs of filters per group."""
        filters: int = self.shape.group_out
        return -(-filters // self.slab)

    @property
    def grid(self) -> int:
        """Blocks of the launch."""
        result = self.shape.result
        tiles: int = -(-result[1] // self.tile[0]) * -(-result[2] // self.tile[1])
        images: int = self.shape.groups * self.shape.batch
        return tiles * self.slabs * images

    @property
    def patch_bytes(self) -> int:
        """Shared memory of the patch."""
        return -(-self.rows * self.row * 2 // 16) * 16

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: patch, weights, table of offsets, table of masks."""
        return self.patch_bytes + self.steps * (self.slab * 32 + 64)


def plan_patch(
    shape: ConvolutionShape, type: str, pixels: int, interleaved: bool
) -> PatchPlan:
    """The plan with ``pixels`` (64, 128 or 256) per block."""
    slab = _slab(shape.group_out)
    tiles = max(1, pixels // 64)
    while tiles * slab // 8 > _MAX_TILES:
        tiles //= 2
    pixel = _pixel_length(shape, interleaved)
    tile = min(_tiles_of(pixels, shape, pixel), key=lambda tile: _tile_cost(shape, tile))
    span = _span(shape, tile, 2)
    if interleaved:
        shifts = {
            (start * shape.stride[2] - shape.before[2]) % CHUNK
            for start in range(0, shape.result[2], tile[1])
        }
        # One more for the element behind a row of odd length.
        columns = -(-(max(shifts) + span + 1) // CHUNK) * CHUNK
    else:
        columns = span
    row = columns * pixel
    lead = interleaved and (shape.before[2] * pixel) % 2 == 1
    return PatchPlan(
        shape, type, interleaved, pixels // 16 // tiles, tiles, tile, slab, pixel, row,
        _span(shape, tile, 1), columns, _pairs(shape, pixel, row, lead),
    )


def _slab(filters: int) -> int:
    if filters <= _MAX_SLAB:
        return -(-filters // 16) * 16
    slabs = -(-filters // 64)
    return -(-filters // slabs // 16) * 16


def _pixel_length(shape: ConvolutionShape, interleaved: bool) -> int:
    """Elements from a pixel to the next: pairs must start at even ones, banks should differ."""
    channels: int = shape.group_in
    if interleaved:
        is_even = shape.stride[2] * channels % 2 == 0
        has_rows = shape.dilation[2] == 1 or channels % 2 == 0
        return channels if is_even and has_rows else -(-channels // 2) * 2
    vector = copied_vector(shape)
    lengths = range(-(-channels // vector) * vector, channels + 32, max(vector, 2))

    def conflicts(length: int) -> int:
        words = {(g * shape.stride[2] * length // 2 + t) for g in range(8) for t in range(4)}
        banks = [word % 32 for word in words]
        return max(banks.count(bank) for bank in set(banks))

    return min((length for length in lengths if length % 2 == 0), key=conflicts)


def copied_vector(shape: ConvolutionShape) -> int:
    """Channels of a group that are copied at once."""
    vector: int = shape.x.vector
    while shape.group_in % vector or vector * shape.x.itemsize_bytes > 16:
        vector //= 2
    return vector


def _tiles_of(pixels: int, shape: ConvolutionShape, pixel: int) -> list[tuple[int, int]]:
    """Rows and columns of tiles with so many pixels; all start at the same parity of element."""
    heights = [1 << i for i in range(pixels.bit_length()) if pixels >> i]
    return [(height, pixels // height) for height in heights if (
        pixels // height * shape.stride[2] * pixel % 2 == 0
    )]


def _tile_cost(shape: ConvolutionShape, tile: tuple[int, int]) -> float:
    """Pixels made, and a part of those read, over the whole image."""
    count: int = -(-shape.result[1] // tile[0]) * -(-shape.result[2] // tile[1])
    patch = _span(shape, tile, 1) * (_span(shape, tile, 2) + CHUNK)
    return count * (tile[0] * tile[1] + 0.25 * patch)


def _span(shape: ConvolutionShape, tile: tuple[int, int], axis: int) -> int:
    """Rows (axis 1) or columns (axis 2) of the image that a tile needs."""
    window: int = (shape.kernel[axis] - 1) * shape.dilation[axis] + 1
    step: int = shape.stride[axis]
    return (tile[axis - 1] - 1) * step + window


def _pairs(
    shape: ConvolutionShape, pixel: int, row: int, lead: bool
) -> tuple[tuple[int, int, int], ...]:
    """(offset, tap element, tap element); elements number [channel, kernel_h, kernel_w], or -1."""
    channels, (_, height, width) = shape.group_in, shape.kernel

    def element(r: int, position: int) -> int:
        s, rest = divmod(position, pixel * shape.dilation[2])
        if position < 0 or s >= width or rest >= channels:
            return -1
        number: int = (rest * height + r) * width + s
        return number

    pairs = []
    length = ((width - 1) * shape.dilation[2] + 1) * pixel
    for r in range(height):
        for start in range(-1 if lead else 0, length, 2):
            first, second = element(r, start), element(r, start + 1)
            if first >= 0 or second >= 0:
                pairs.append((r * shape.dilation[1] * row + start, first, second))
    return tuple(pairs)


def pack_patch_weight(plan: PatchPlan, array: Array) -> Array:
    """Weights [k, c/groups, h, w] (float32) as warps load them, 16 bits each.

    [group, slab, step, pair of column tiles, lane, tile of the pair, word, half].
    """
    shape = plan.shape
    filters = plan.slab * plan.slabs
    flat = array.reshape(shape.groups, shape.group_out, -1)
    padded = np.zeros((shape.groups, filters, flat.shape[2] + 1), np.float32)
    padded[:, : shape.group_out, :-1] = flat
    elements = [element for _, *both in plan.pairs for element in both]
    elements += [-1] * (plan.steps * 16 - len(elements))
    order = np.array([_filter_of(plan.slab, column) for column in range(plan.slab)])
    columns = (np.arange(plan.slabs)[:, None] * plan.slab + order).reshape(-1)
    product = padded[:, columns][:, :, elements]
    # k of a step: [word, t, half]; columns: [slab, pair, tile, g].
    split = product.reshape(shape.groups, plan.slabs, plan.slab // 16, 2, 8, plan.steps, 2, 4, 2)
    lanes = np.transpose(split, (0, 1, 5, 2, 4, 7, 3, 6, 8))
    return to_bits(np.ascontiguousarray(lanes), plan.type)


def _filter_of(slab: int, column: int) -> int:
    """The filter of a slab that a column of the product computes.

    Of 4 tiles of 8 columns thread t has columns 2t and 2t + 1: they are its filters 8t to 8t + 7.
    """
    tiles = 4 if column < slab // 32 * 32 else 2
    first = column // 32 * 32
    tile, inner = divmod(column - first, 8)
    return first + inner // 2 * (2 * tiles) + tile * 2 + inner % 2


def to_bits(array: Array, type: str) -> Array:
    """float32 values as f16 or bf16, rounded to nearest even, stored as bits."""
    if type == "f16":
        return array.astype(np.float16).view(np.uint16)
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FFF, rounded).astype(np.uint16)


def patch_source(plan: PatchPlan) -> str:
    """The kernel ``(x, weight, out, extras...)``; weight as `pack_patch_weight` makes it."""
    shape = plan.shape
    tiles_h, tiles_w = (-(-shape.result[axis] // plan.tile[axis - 1]) for axis in (1, 2))
    pixel, strides = plan.pixel, shape.x.strides
    is_last = strides[1] == 1 and strides[4] == shape.in_channels == pixel
    is_chunked = plan.interleaved and all(strides[axis] % CHUNK == 0 for axis in (0, 3))
    is_plain = strides[4] == 1 and strides[1] % CHUNK == 0
    masks = [_mask(pair) for pair in plan.pairs]
    masks += [0] * (plan.steps * 8 - len(masks))
    # What fills up the last step reads the first pair, which is aligned as all are.
    pairs = [*plan.pairs, *[plan.pairs[0]] * (plan.steps * 8 - len(plan.pairs))]
    offsets = [2 * offset for offset, *_ in pairs]
    masked = [any(mask != 0xFFFFFFFF for mask in masks[i : i + 8]) for i in range(0, len(masks), 8)]
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


def _mask(pair: tuple[int, int, int]) -> int:
    return (0xFFFF if pair[1] >= 0 else 0) | (0xFFFF0000 if pair[2] >= 0 else 0)


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
template <int N> T2R_DEVICE void store_halves(Half* to, const Loaded<float, N>& values) {
    float taken[N];
    to_floats<float, N>(taken, values);
    store_floats<Half, N>(to, taken);
}

T2R_DEVICE f16 to_half(f16 value, f16) { return value; }
T2R_DEVICE bf16 to_half(bf16 value, bf16) { return value; }
template <class T> T2R_DEVICE T to_half(float value, T) { return from_float<T>(value); }

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
            store_halves<8>(patch + y * ROW + v * 8, load_if<In, 8>(
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
            store_halves<COPIED>(patch + y * ROW + z * PIXEL + c, load_if<In, COPIED>(
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
    const In* __restrict__ x, const uint4* __restrict__ weight,
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
    float sums[TILES][COLUMN_TILES][4];
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
        for (int j = 0; j < COLUMN_TILES * 4; j++) sums[i][j / 4][j % 4] = 0.0f;
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
                    values[k] = sums[i / 2][j + k / 2 < COLUMN_TILES ? j + k / 2 : 0]
                                    [i % 2 * 2 + k % 2];
                const int filter = slab * SLAB + j * 8 + t * 8;
                if (filter < GROUP_OUT)
                    finish<8>(values, n, 0, h, w, group * GROUP_OUT + filter, out@ARGUMENTS);
            } else if (REST) {
                float values[4];
#pragma unroll
                for (int k = 0; k < 4; k++)
                    values[k] = sums[i / 2][j + k / 2 < COLUMN_TILES ? j + k / 2 : 0]
                                    [i % 2 * 2 + k % 2];
                const int filter = slab * SLAB + j * 8 + t * 4;
                if (filter < GROUP_OUT)
                    finish<4>(values, n, 0, h, w, group * GROUP_OUT + filter, out@ARGUMENTS);
            }
        }
    }
}
"""
