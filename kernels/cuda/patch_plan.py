"""How a patch convolution is cut into tiles, and how its patch and weights lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape
from torch2rt.network.dtype import Array

# Pixels of a row that are copied together where channels are few.
CHUNK = 8
# Accumulator tiles of 16 x 8 that a warp holds, and filters of a block, at most.
_MAX_TILES, _MAX_SLAB = 32, 96


@dataclass(frozen=True)
class PatchPlan:
    """How a shape is cut and how its patch lies in shared memory. Lengths in elements.

    ``interleaved``: channels of neighbouring pixels lie side by side without a gap, copied in
    chunks of 8 pixels; else a pixel's channels are copied in vectors.
    ``words``: offset in the patch, and the window's element for each of a word's two halves or
    four bytes, -1 where one takes no part.
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
    words: tuple[tuple[int, ...], ...]

    @property
    def item_bytes(self) -> int:
        """Bytes of an element of the patch."""
        return 1 if self.type == "i8" else 2

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def steps(self) -> int:
        """Steps of the product: 8 words each."""
        return -(-len(self.words) // 8)

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
        return -(-self.rows * self.row * self.item_bytes // 16) * 16

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: patch, weights, table of offsets, table of masks."""
        return self.patch_bytes + self.steps * (self.slab * 32 + 64)


def plan_patch(
    shape: ConvolutionShape, type: str, pixels: int, interleaved: bool
) -> PatchPlan:
    """The plan with ``pixels`` (64, 128 or 256) per block; ``type`` "i8" for interleaved bytes."""
    is_byte = type == "i8"
    slab = _slab(shape.group_out)
    tiles = max(1, pixels // 64)
    while tiles * slab // 8 > _MAX_TILES:
        tiles //= 2
    pixel = -(-shape.group_in // 4) * 4 if is_byte else _pixel_length(shape, interleaved)
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
        _span(shape, tile, 1), columns,
        _quads(shape, pixel, row) if is_byte else _pairs(shape, pixel, row, lead),
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


def _quads(shape: ConvolutionShape, pixel: int, row: int) -> tuple[tuple[int, ...], ...]:
    """(offset, four tap elements); a pixel is one word or two, channels that are none are -1."""
    channels, (_, height, width) = shape.group_in, shape.kernel
    words = []
    for r in range(height):
        for s in range(width):
            for c in range(0, pixel, 4):
                elements = (
                    (channel * height + r) * width + s if channel < channels else -1
                    for channel in range(c, c + 4)
                )
                offset = r * shape.dilation[1] * row + s * shape.dilation[2] * pixel + c
                words.append((offset, *elements))
    return tuple(words)


def pack_patch_weight(plan: PatchPlan, array: Array) -> Array:
    """Weights [k, c/groups, h, w] (float32) as warps load them, in the plan's type.

    [group, slab, step, pair of column tiles, lane, tile of the pair, word, element of the word].
    """
    shape = plan.shape
    filters = plan.slab * plan.slabs
    flat = array.reshape(shape.groups, shape.group_out, -1)
    padded = np.zeros((shape.groups, filters, flat.shape[2] + 1), np.float32)
    padded[:, : shape.group_out, :-1] = flat
    size = 4 // plan.item_bytes
    elements = [element for _, *word in plan.words for element in word]
    elements += [-1] * (plan.steps * 8 * size - len(elements))
    order = np.array([_filter_of(plan.slab, column) for column in range(plan.slab)])
    columns = (np.arange(plan.slabs)[:, None] * plan.slab + order).reshape(-1)
    product = padded[:, columns][:, :, elements]
    # k of a step: [word, t, element]; columns: [slab, pair, tile, g].
    split = product.reshape(
        shape.groups, plan.slabs, plan.slab // 16, 2, 8, plan.steps, 2, 4, size
    )
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
    """float32 values as f16 or bf16, rounded to nearest even, stored as bits; as i8 themselves."""
    if type == "i8":
        return array.astype(np.int8)
    if type == "f16":
        return array.astype(np.float16).view(np.uint16)
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FFF, rounded).astype(np.uint16)
