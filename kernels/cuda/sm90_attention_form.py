"""What a source of sm90_attention.py is for: sizes, how keys are cut into chunks, the mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch2rt.network.dtype import DType

FEATURES = 64  # of a query, a key and a value
TILE_ROWS = 64  # queries of a warpgroup
ROW_BYTES = 128
# The most keys of a chunk, of which a thread holds half as many scores and a quarter as many
# registers of shares, by the warpgroups that multiply.
MAX_CHUNK = {1: 208, 2: 208, 3: 128}
# Registers of a thread that copies and of one that multiplies, by the warpgroups that multiply.
REGISTERS = {1: (24, 232), 2: (24, 240), 3: (32, 160)}
_QUERY_BYTES = TILE_ROWS * ROW_BYTES
_ALIGNMENT = 1024
_BARRIER_BYTES = 512


@dataclass(frozen=True, slots=True)
class MaskForm:
    """A mask's type and its strides over far, mid, rows and keys, in elements."""

    dtype: DType
    strides: tuple[int, int, int, int]

    @property
    def has_pairs(self) -> bool:
        """Whether neighbours of even and odd keys can be read together."""
        *outer, key = self.strides
        return key == 1 and all(stride % 2 == 0 for stride in outer)


@dataclass(frozen=True, slots=True)
class AttentionForm:
    """A source's parameters.

    ``batch``: matrices over far and mid. ``groups``: warpgroups of a block that multiply.
    ``tiles``: tiles of 64 queries that a block takes before it lets go of their keys. ``stages``:
    chunks of keys and values that a block holds.
    """

    dtype: DType
    batch: tuple[int, int]
    rows: int
    keys: int
    scale: float
    is_causal: bool
    mask: MaskForm | None
    groups: int
    tiles: int
    blocks: int
    stages: int

    @property
    def chunks(self) -> int:
        """Chunks of keys."""
        return math.ceil(self.keys / MAX_CHUNK[self.groups])

    @property
    def scores(self) -> int:
        """Keys of a chunk as the first product sees them, whose size is a multiple of 8."""
        return 8 * math.ceil(self.keys / 8) if self.chunks == 1 else self.values

    @property
    def values(self) -> int:
        """Keys of a chunk as the second product sees them, in steps of 16."""
        return 16 * math.ceil(self.keys / self.chunks / 16)

    @property
    def stage_bytes(self) -> int:
        """Keys and values of a chunk."""
        return (self.scores + self.values) * ROW_BYTES

    @property
    def splits(self) -> int:
        """Parts of the queries of a matrix: what a block takes at a time."""
        return math.ceil(self.rows / (TILE_ROWS * self.tiles))

    @property
    def items(self) -> int:
        """Parts of all matrices."""
        return math.prod(self.batch) * self.splits

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 128 * (1 + self.groups)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: chunks, two tiles of queries per warpgroup."""
        queries = 2 * self.groups * _QUERY_BYTES
        return self.stages * self.stage_bytes + queries + _BARRIER_BYTES + _ALIGNMENT
