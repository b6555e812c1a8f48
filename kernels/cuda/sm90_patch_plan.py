"""How a convolution is cut for sm90_patch.py, and how its patch and weights lie in memory.

All lengths are in cells of 16 bytes, the unit of the tensor cores' descriptors. Row m of a product
reads the cells m, m + 1 and so on of the patch, so neighbouring pixels of the result must be one
cell apart. Deep images (whole pairs of cells per pixel, stride 1) lie in planes of one cell per
pixel. Stems of bytes lie as pixels of four bytes: two pixels of the result are a cell apart, so
there is a second copy of the patch half a cell further on for every other pixel; rows of the image
lie in as many phases as the stride has rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape
from torch2rt.kernels.cuda.patch_plan import to_bits
from torch2rt.network.dtype import Array

CELL_BYTES = 16
THREADS = 256
# Rows of a product, and cells of k, that one instruction multiplies.
PRODUCT_ROWS, STEP_CELLS = 64, 2
STEM_CHANNELS = 4
MAX_FILTERS = 128
# Of a patch that a multiprocessor copies per clock; clocks until the first of it is there, and for
# the epilogue of a product.
_COPIED_BYTES, _LATENCY, _EPILOGUE = 24, 1500, 800


@dataclass(frozen=True)
class Sm90PatchPlan:
    """A cut: ``tile`` rows and columns of the result per patch, ``buffers`` patches per block.

    ``type``: of the image and the weights, "f16", "bf16" or "i8".
    """

    shape: ConvolutionShape
    type: str
    tile: tuple[int, int]
    blocks: int
    buffers: int

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return 1 if self.type == "i8" else 2

    @property
    def is_stem(self) -> bool:
        """Whether pixels have less than a cell."""
        channels: int = self.shape.in_channels
        return channels <= STEM_CHANNELS

    @property
    def filters(self) -> int:
        """Filters, filled up to whole groups of 32."""
        filters: int = self.shape.out_channels
        return -(-filters // 32) * 32

    @property
    def chunks(self) -> int:
        """Cells of a pixel, each in a plane of its own."""
        channels: int = self.shape.in_channels
        return 1 if self.is_stem else channels * self.item_bytes // CELL_BYTES

    @property
    def copies(self) -> int:
        """Pixels of the result per cell."""
        return CELL_BYTES // (self.shape.stride[2] * STEM_CHANNELS) if self.is_stem else 1

    @property
    def phases(self) -> int:
        """Sets of rows of the image that lie apart."""
        return self.shape.stride[1] if self.is_stem else 1

    @property
    def lead(self) -> int:
        """Pixels before the window, so that a stem's patch starts at a whole cell."""
        before: int = self.shape.before[2]
        return -before % 4 if self.is_stem else 0

    @property
    def rows(self) -> int:
        """Rows of the image in a patch."""
        shape = self.shape
        rows: int = (self.tile[0] - 1) * shape.stride[1] + (shape.kernel[1] - 1) * shape.dilation[1]
        return rows + 1

    @property
    def row_cells(self) -> int:
        """Cells of a row of the image in one plane, and of a row of the result."""
        shape = self.shape
        if not self.is_stem:
            reach: int = (shape.kernel[2] - 1) * shape.dilation[2]
            return self.tile[1] + reach
        pixels: int = (self.tile[1] - 1) * shape.stride[2] + self.row_steps * STEP_CELLS * 4
        return -(-pixels // 4)

    @property
    def row_steps(self) -> int:
        """Steps of k of one row of a stem's window."""
        pixels: int = self.lead + self.shape.kernel[2]
        return -(-pixels * STEM_CHANNELS // (STEP_CELLS * CELL_BYTES))

    @property
    def plane_cells(self) -> int:
        """Cells from one plane to the next: cells of a pixel, copied at once, differ in banks."""
        if self.is_stem:
            return -(-self.rows // self.phases) * self.row_cells
        apart = 8 // min(self.chunks, 8)
        cells = self.rows * self.row_cells
        return cells + (apart - cells) % 8

    @property
    def patch_cells(self) -> int:
        """Cells of a patch, in whole groups of eight."""
        planes = self.chunks * self.copies * self.phases
        return -(-planes * self.plane_cells // 8) * 8

    @cached_property
    def step_offsets(self) -> tuple[int, ...]:
        """For each step of k, the first cell that the first row of a product reads."""
        shape = self.shape
        offsets = []
        for r in range(shape.kernel[1]):
            if self.is_stem:
                first = r % self.phases * self.plane_cells + r // self.phases * self.row_cells
                offsets += [first + STEP_CELLS * q for q in range(self.row_steps)]
                continue
            for s in range(shape.kernel[2]):
                first = r * shape.dilation[1] * self.row_cells + s * shape.dilation[2]
                offsets += [
                    first + plane * self.plane_cells for plane in range(0, self.chunks, STEP_CELLS)
                ]
        return tuple(offsets)

    @property
    def products(self) -> int:
        """Products of 64 rows that make one copy's pixels of a tile."""
        columns = -(-self.tile[1] // self.copies)
        return -(-((self.tile[0] - 1) * self.row_cells + columns) // PRODUCT_ROWS)

    @property
    def weight_cells(self) -> int:
        """Cells of the weights."""
        return len(self.step_offsets) * STEP_CELLS * self.filters

    @property
    def shared_bytes(self) -> int:
        """Shared memory: patches, then weights, in which the last rows of a product may end.

        What they read there belongs to no pixel.
        """
        cells = self.buffers * self.patch_cells + self.weight_cells
        slack = max(0, PRODUCT_ROWS + max(self.step_offsets) - self.weight_cells)
        return (cells + slack) * CELL_BYTES

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles over images, rows and columns."""
        result = self.shape.result
        rows, columns = (-(-result[1 + axis] // self.tile[axis]) for axis in (0, 1))
        return self.shape.batch, rows, columns

    def cost(self, multiprocessors: int) -> float:
        """Clocks, roughly: rounds of tiles, each as long as what is scarce or as it takes alone."""
        products = self.copies * self.products
        multiplied = len(self.step_offsets) * max(32, self.filters // 2)
        copied = self.patch_cells * CELL_BYTES / _COPIED_BYTES
        # Two warpgroups take turns on the tensor cores.
        worked = -(-products // 2) * (2 * multiplied + _EPILOGUE)
        waited = copied + _LATENCY
        alone = max(waited, worked) if self.buffers > 1 else waited + worked
        shared = self.blocks * max(products * multiplied, copied)
        rounds = -(-math.prod(self.tiles) // (self.blocks * multiprocessors))
        return rounds * max(alone, shared)


@lru_cache(maxsize=1024)
def plan_sm90_patch(
    shape: ConvolutionShape, type: str, shared_bytes: int, blocks: int, multiprocessors: int
) -> Sm90PatchPlan | None:
    """The best cut with which ``blocks`` share a multiprocessor's memory; None if none fits."""
    plans = []
    for height in range(1, min(shape.result[1], 32) + 1):
        for parts in (1, 2, 3, 4):
            width = -(-shape.result[2] // parts)
            for buffers in (1, 2):
                plan = Sm90PatchPlan(shape, type, (height, width), blocks, buffers)
                if plan.is_stem and (buffers > 1 or (parts > 1 and width * shape.stride[2] % 4)):
                    continue  # patches start at whole cells
                if plan.shared_bytes <= shared_bytes:
                    plans.append(plan)
    return min(plans, key=lambda plan: plan.cost(multiprocessors), default=None)


def pack_sm90_weight(plan: Sm90PatchPlan, array: Array) -> Array:
    """Weights [k, c, h, w] (float32) as the tensor cores read them, in the plan's type.

    [step, cell of the step, filter as columns go, element of the cell].
    """
    shape, item = plan.shape, plan.item_bytes
    per_cell = CELL_BYTES // item
    filters = np.zeros((plan.filters, *array.shape[1:]), np.float32)
    filters[: array.shape[0]] = array
    filters = filters[[_filter_of(column) for column in range(plan.filters)]]
    if plan.is_stem:
        width = plan.row_steps * STEP_CELLS * 4
        padded = np.zeros((plan.filters, shape.kernel[1], width, STEM_CHANNELS), np.float32)
        window = np.transpose(filters, (0, 2, 3, 1))
        padded[:, :, plan.lead : plan.lead + shape.kernel[2], : array.shape[1]] = window
        flat = padded.reshape(plan.filters, -1)
    else:
        flat = np.transpose(filters, (0, 2, 3, 1)).reshape(plan.filters, -1)
    cells = flat.reshape(plan.filters, -1, STEP_CELLS, per_cell)
    packed: Array = to_bits(np.ascontiguousarray(np.transpose(cells, (1, 2, 0, 3))), plan.type)
    return packed


def _filter_of(column: int) -> int:
    """The filter that a column of the product computes.

    Of 4 tiles of 8 columns thread t has columns 2t and 2t + 1: they are its filters 8t to 8t + 7.
    """
    first, inner = column // 32 * 32, column % 32
    tile, within = divmod(inner, 8)
    return first + within // 2 * 8 + tile * 2 + within % 2
