"""Tiles of our Triton kernels, and a model of their time that says which are worth compiling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch2rt.backends.cuda.device import Device
from torch2rt.network.dtype import DType

# Per microsecond, of sm_90: products of half floats and bytes from the L2 cache that one
# multiprocessor gets; bytes that all get from the L2 cache and from memory.
_FLOPS = 6.0e6
_OWN_L2_BYTES = 80e3
_L2_BYTES = 5.5e6
_MEMORY_BYTES = 4.0e6
_START_US = 1.6  # launch, first loads, last stores
_PARTS_US = 1.5  # meeting of the blocks that share a tile
_SHARED_BYTES_PER_MULTIPROCESSOR = 228 * 1024
# Blocks that may share tiles: with more, whole tiles fill the device.
SHARING_BLOCKS_PER_MULTIPROCESSOR = 2


@dataclass(frozen=True, slots=True)
class Tile:
    """Sizes of a tile, in elements of two bytes along k; how blocks and tiles meet.

    ``parts``: blocks that share a tile. ``halves``: pieces in which the epilogue is applied.
    ``is_alone``: a block has one tile and does not persist. ``variant`` tells it from another of
    these sizes.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    parts: int = 1
    halves: int = 1
    is_alone: bool = False
    variant: str = ""

    @property
    def is_persistent(self) -> bool:
        """Whether a block takes one tile after the other."""
        return self.parts == 1 and not self.is_alone

    def block_k(self, itemsize_bytes: int) -> int:
        """Elements along k."""
        return max(16, self.k * 2 // itemsize_bytes)

    @property
    def name(self) -> str:
        """``128x64x64``, ``64x64x128_split4``, ``128x128x64_alone``."""
        parts = f"_split{self.parts}" if self.parts > 1 else ""
        alone = "_alone" if self.is_alone else ""
        variant = f"_{self.variant}" if self.variant else ""
        return f"{self.m}x{self.n}x{self.k}{parts}{alone}{variant}"

    @property
    def operand_bytes(self) -> int:
        """Shared memory of the operands under way."""
        return (self.m + self.n) * self.k * 2 * self.stages


@dataclass(frozen=True, slots=True)
class Work:
    """A product [m, k] x [k, n], ``batch`` times, as the model of time sees it.

    ``rows`` is m or, where tiles do not fit the image, the pixels that whole tiles cover.
    ``bytes_moved``: all operands once. ``result_bytes``: what the epilogue reads and stores per
    element of the result. ``rate``: products per second, as a share of those of half floats.
    """

    m: int
    n: int
    k: int
    batch: int
    itemsize_bytes: int
    bytes_moved: int
    result_bytes: int
    rate: float = 1.0

    def estimate_us(self, tile: Tile, device: Device, through_maps: bool) -> float:
        """Microseconds that a tile takes, roughly."""
        blocks = self._tiles(tile) * tile.parts
        l2_rate = min(_OWN_L2_BYTES, _L2_BYTES / min(blocks, device.multiprocessors))
        per_step = self._step_us(tile, through_maps, l2_rate)
        steps = math.ceil(self.k / tile.block_k(self.itemsize_bytes) / tile.parts)
        store_bytes = tile.m * tile.n * self.result_bytes
        if tile.parts > 1:
            store_bytes += tile.m * tile.n * 4 * (1 + tile.parts)
        one = steps * per_step + store_bytes / l2_rate
        together = self._resident(tile, through_maps)
        rounds = blocks / device.multiprocessors
        # Blocks on one multiprocessor hide each other's waiting, not each other's work.
        waiting = _waiting_us(tile) * math.ceil(rounds / together)
        busy = math.ceil(rounds) * one
        memory = self.bytes_moved / _MEMORY_BYTES
        return max(busy + waiting, memory) + _START_US + (_PARTS_US if tile.parts > 1 else 0)

    def fits(self, tile: Tile, device: Device, through_maps: bool) -> bool:
        """Whether the tile's memory suffices; whether parts are worth it and have work to do."""
        if self._shared_bytes(tile, through_maps) > device.shared_bytes:
            return False
        steps = math.ceil(self.k / tile.block_k(self.itemsize_bytes))
        enough = SHARING_BLOCKS_PER_MULTIPROCESSOR * device.multiprocessors
        return tile.parts == 1 or (
            2 * tile.parts <= steps and self._tiles(tile) * tile.parts <= enough
        )

    def _tiles(self, tile: Tile) -> int:
        return math.ceil(self.m / tile.m) * math.ceil(self.n / tile.n) * self.batch

    def _shared_bytes(self, tile: Tile, through_maps: bool) -> int:
        """The output and epilogue matrices that maps move have memory beside the operands."""
        beside = tile.m * tile.n * self.result_bytes // tile.halves
        if not through_maps or not tile.is_persistent:
            return max(tile.operand_bytes, beside)
        return tile.operand_bytes + beside + 256

    def _step_us(self, tile: Tile, through_maps: bool, l2_rate: float) -> float:
        k = tile.block_k(self.itemsize_bytes)
        rate = _FLOPS * self.rate * _efficiency(tile, through_maps)
        compute = 2 * tile.m * tile.n * k / rate
        load = (tile.m + tile.n) * k * self.itemsize_bytes / l2_rate
        return max(compute, load)

    def _resident(self, tile: Tile, through_maps: bool) -> int:
        shared = self._shared_bytes(tile, through_maps) + 1024
        by_registers = 65536 // (tile.m * tile.n + 32 * tile.warps * 64)
        return max(1, min(_SHARED_BYTES_PER_MULTIPROCESSOR // shared, by_registers, 8))


def dot_precision(dtype: DType, is_tf32: bool) -> str:
    """``input_precision`` of tl.dot: float32 in full is three products of TF32 on tensor cores.

    Each operand is a sum of two numbers of TF32; what is lost is the product of the small ones, of
    2^-22 of the whole, no more than float32 sums lose anyway.
    """
    if dtype is not DType.FLOAT32:
        return "ieee"
    return "tf32" if is_tf32 else "tf32x3"


def product_rate(dtype: DType, is_tf32: bool) -> float:
    """`Work.rate` of a dtype: float32 in full is three products, split in registers."""
    if dtype is not DType.FLOAT32:
        return 2.0 / dtype.itemsize_bytes
    return 0.5 if is_tf32 else 0.13


def _efficiency(tile: Tile, through_maps: bool) -> float:
    """Share of the peak that products of one tile reach."""
    share = 0.85 if tile.m * tile.n >= 128 * 128 else 0.65 if tile.m * tile.n >= 128 * 64 else 0.5
    if tile.m < 64 and not through_maps:
        share *= 0.4
    return share if through_maps else share * 0.8


def _waiting_us(tile: Tile) -> float:
    """What a block waits for memory, deeper pipelines waiting less."""
    return 0.8 if tile.stages >= 3 else 1.2


MAP_TILES = (
    Tile(128, 256, 64, 8, 3, halves=2), Tile(256, 128, 64, 8, 3, halves=2),
    Tile(128, 128, 64, 8, 3, is_alone=True), Tile(128, 256, 64, 8, 4, is_alone=True),
    Tile(128, 128, 64, 8, 4), Tile(128, 128, 128, 8, 2), Tile(256, 64, 64, 8, 3),
    Tile(128, 64, 64, 4, 4), Tile(64, 128, 64, 4, 4), Tile(64, 256, 64, 4, 3),
    Tile(128, 64, 128, 4, 3), Tile(64, 128, 128, 4, 3),
    Tile(64, 64, 64, 4, 5), Tile(64, 64, 128, 4, 4), Tile(64, 32, 128, 4, 4),
    Tile(64, 64, 64, 4, 4, 4), Tile(64, 64, 64, 4, 4, 8), Tile(64, 64, 64, 4, 4, 16),
    Tile(64, 64, 128, 4, 4, 2), Tile(64, 64, 128, 4, 4, 4), Tile(64, 64, 128, 4, 4, 8),
    Tile(64, 32, 128, 4, 4, 2), Tile(64, 32, 128, 4, 4, 4), Tile(64, 128, 64, 4, 4, 4),
    Tile(128, 64, 64, 4, 4, 2), Tile(128, 128, 64, 8, 4, 2), Tile(128, 128, 64, 8, 4, 4),
)
# Of bytes only: less memory, so that several blocks on a multiprocessor hide the epilogues.
BYTE_MAP_TILES = (
    Tile(256, 64, 32, 8, 2), Tile(128, 64, 32, 4, 3), Tile(128, 128, 32, 8, 3),
    Tile(128, 256, 32, 8, 2, halves=2), Tile(256, 64, 64, 8, 2, variant="two"),
    Tile(128, 64, 64, 4, 3, variant="three"), *MAP_TILES,
)
POINTER_TILES = (
    Tile(128, 128, 32, 8, 3), Tile(128, 128, 64, 8, 3), Tile(128, 64, 64, 4, 3),
    Tile(64, 128, 64, 4, 3), Tile(64, 64, 64, 4, 4), Tile(64, 32, 64, 4, 4),
    Tile(32, 64, 64, 4, 4), Tile(32, 32, 128, 4, 3), Tile(16, 64, 128, 4, 4),
    Tile(16, 32, 256, 4, 3), Tile(64, 64, 64, 4, 4, 4), Tile(64, 32, 64, 4, 4, 4),
    Tile(32, 64, 64, 4, 4, 4), Tile(16, 32, 256, 4, 3, 4), Tile(16, 64, 128, 4, 4, 4),
)
BOX_TILES = (
    Tile(128, 256, 64, 8, 3), Tile(256, 128, 64, 8, 3), Tile(128, 128, 64, 8, 4),
    Tile(128, 64, 64, 4, 4), Tile(64, 128, 64, 4, 4), Tile(256, 64, 64, 4, 3),
    Tile(64, 64, 64, 4, 5), Tile(32, 64, 64, 4, 5), Tile(32, 128, 64, 4, 5),
    Tile(64, 64, 64, 4, 5, 2), Tile(64, 64, 64, 4, 5, 4), Tile(64, 64, 64, 4, 5, 8),
    Tile(64, 64, 64, 4, 5, 16), Tile(32, 64, 64, 4, 5, 4), Tile(32, 64, 64, 4, 5, 8),
    Tile(64, 128, 64, 4, 4, 4),
)
# Of bytes only: 64 channels at once, for layers that have no more.
BYTE_BOX_TILES = (
    Tile(256, 64, 32, 4, 4), Tile(128, 64, 32, 4, 5), Tile(128, 128, 32, 8, 4),
    Tile(64, 64, 32, 4, 5), *BOX_TILES,
)
GATHER_TILES = (
    Tile(128, 128, 64, 8, 3), Tile(128, 64, 64, 4, 4), Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 4, 4), Tile(128, 64, 32, 4, 4), Tile(64, 32, 64, 4, 4),
    Tile(32, 64, 64, 4, 4), Tile(64, 64, 32, 4, 4), Tile(128, 32, 16, 4, 4),
    Tile(64, 64, 64, 4, 4, 4), Tile(64, 32, 64, 4, 4, 4), Tile(32, 32, 64, 4, 4, 8),
)
PATCH_TILES = (
    Tile(64, 64, 64, 4, 4), Tile(32, 64, 64, 4, 5), Tile(64, 32, 64, 4, 5),
    Tile(64, 128, 64, 4, 4), Tile(128, 128, 64, 8, 3), Tile(128, 64, 64, 4, 4),
    Tile(64, 64, 64, 4, 4, 2), Tile(64, 64, 64, 4, 4, 4),
)
PATCHES_WORTH_COMPILING = 4
BOXES_WORTH_COMPILING = 5
GATHERS_WORTH_COMPILING = 1
WORTH_COMPILING = 5
POINTERS_BESIDE_MAPS = 1
# Where Hopper's own kernel takes a product: compiling tiles is most of what a build takes.
BESIDE_WGMMA = 2


@lru_cache(maxsize=4096)
def rank_patches(work: Work, device: Device) -> tuple[Tile, ...]:
    """Tiles of the kernel of patches that are worth compiling, the most promising first."""
    fitting = [tile for tile in PATCH_TILES if work.fits(tile, device, through_maps=False)]
    fitting.sort(key=lambda tile: work.estimate_us(tile, device, through_maps=False))
    return tuple(fitting[:PATCHES_WORTH_COMPILING])


@lru_cache(maxsize=4096)
def rank_tiles(work: Work, device: Device, takes_maps: bool) -> tuple[tuple[Tile, bool], ...]:
    """The (tile, whether through maps) that are worth compiling, the most promising first."""
    def best(tiles: Sequence[Tile], through_maps: bool, count: int) -> list[tuple[Tile, bool]]:
        fitting = [tile for tile in tiles if work.fits(tile, device, through_maps)]
        order = sorted(fitting, key=lambda tile: work.estimate_us(tile, device, through_maps))
        return [(tile, through_maps) for tile in order[:count]]

    if not takes_maps:
        return tuple(best(POINTER_TILES, False, WORTH_COMPILING))
    few = best(POINTER_TILES, False, POINTERS_BESIDE_MAPS)
    return (*best(map_tiles(work.itemsize_bytes), True, WORTH_COMPILING), *few)


def map_tiles(itemsize_bytes: int) -> tuple[Tile, ...]:
    """Tiles of gemm_tma for elements of a size."""
    return MAP_TILES if itemsize_bytes > 1 else BYTE_MAP_TILES


def box_tiles(itemsize_bytes: int) -> tuple[Tile, ...]:
    """Tiles of convolution_tma for elements of a size."""
    return BOX_TILES if itemsize_bytes > 1 else BYTE_BOX_TILES
