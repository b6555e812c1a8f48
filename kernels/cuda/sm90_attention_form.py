"""What a source of sm90_attention.py is for: sizes, how keys are cut into chunks, the mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch2rt.kernels.cuda.sm90_attention_float8 import FLOAT8_REGISTERS
from torch2rt.network.dtype import DType

FEATURES = 64  # of a query, a key and a value
TILE_ROWS = 64  # queries of a warpgroup
ROW_BYTES = 128  # of 16 bits
_BOX_ALIGNMENT = 1024  # where swizzled rows start
# Tiles of queries that a warpgroup holds: one it works on, one it will, one whose result leaves.
QUERY_BUFFERS = 3
# The most keys of a chunk by the warpgroups that multiply: of each key a thread holds half a
# score, twice if it looks ahead, and a quarter of a register of shares.
MAX_CHUNK = {1: 112, 2: 128, 3: 128}
# The scores of a chunk are begun before the one in front of it is let go of.
MIN_STAGES = 2
# Registers of a thread that copies and of one that multiplies, by the warpgroups that multiply.
REGISTERS = {1: (24, 232), 2: (24, 240), 3: (32, 160)}
MASK_BYTES = 512  # of a chunk, in floats
_BARRIER_BYTES = 512


@dataclass(frozen=True, slots=True)
class MaskForm:
    """A mask's type and its strides over far, mid, rows and keys, in elements."""

    dtype: DType
    strides: tuple[int, int, int, int]

    @property
    def is_of_keys(self) -> bool:
        """Whether all queries of a matrix have the same mask."""
        return self.strides[2] == 0

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
    # What is stored, and the C++ of it, x being a result.
    out: DType | None = None
    epilogue: str = "x"

    @property
    def is_float8(self) -> bool:
        """Whether queries, keys and values are float8."""
        return self.dtype is DType.FLOAT8_E4M3

    @property
    def half(self) -> DType:
        """The 16 bits in which values are multiplied."""
        return DType.FLOAT16 if self.is_float8 else self.dtype

    @property
    def result(self) -> DType:
        """The dtype of the result: that of the queries, unless ``out`` says another."""
        return self.out if self.out is not None else self.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a query or key."""
        return FEATURES * self.dtype.itemsize_bytes

    @property
    def registers(self) -> tuple[int, int]:
        """Registers of a thread that copies and of one that multiplies."""
        return (FLOAT8_REGISTERS if self.is_float8 else REGISTERS)[self.groups]

    @property
    def chunks(self) -> int:
        """Chunks of keys."""
        return math.ceil(self.keys / MAX_CHUNK[self.groups])

    @property
    def scores(self) -> int:
        """Keys of a chunk; the first product takes multiples of 8."""
        return 8 * math.ceil(self.keys / self.chunks / 8)

    @property
    def values(self) -> int:
        """Keys of a chunk as the second product sees them, in steps of 16."""
        return 16 * math.ceil(self.scores / 16)

    @property
    def key_room(self) -> int:
        """Bytes from the keys of a chunk to its values."""
        return _rounded(self.scores * self.row_bytes)

    @property
    def query_room(self) -> int:
        """Bytes of a tile of queries, and later of its result."""
        return TILE_ROWS * max(self.row_bytes, FEATURES * self.result.itemsize_bytes)

    @property
    def stage_bytes(self) -> int:
        """Keys and values of a chunk, in float8 once more as bytes."""
        values = self.values * (ROW_BYTES + (self.row_bytes if self.is_float8 else 0))
        return self.key_room + _rounded(values)

    @property
    def splits(self) -> int:
        """Parts of the queries of a matrix: what a block takes at a time."""
        return math.ceil(self.rows / (TILE_ROWS * self.tiles))

    @property
    def items(self) -> int:
        """Parts of all matrices."""
        return math.prod(self.batch) * self.splits

    @property
    def can_pass(self) -> bool:
        """Whether a warpgroup may have no use of a chunk: later keys, or too few tiles."""
        last = math.ceil(self.rows / TILE_ROWS) - (self.splits - 1) * self.tiles
        return self.is_causal or last < self.groups

    @property
    def looks_ahead(self) -> bool:
        """Whether scores of the next chunk are made during the softmax of one."""
        return self.groups < 3

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 128 * (1 + self.groups)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        queries = QUERY_BUFFERS * self.groups * self.query_room
        stage = self.stage_bytes + MASK_BYTES
        return self.stages * stage + queries + _BARRIER_BYTES + _BOX_ALIGNMENT


def _rounded(size_bytes: int) -> int:
    """Up to where the next swizzled rows can start."""
    return math.ceil(size_bytes / _BOX_ALIGNMENT) * _BOX_ALIGNMENT
