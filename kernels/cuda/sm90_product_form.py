"""What a source of sm90_product.py is for: sizes, the window of a convolution, the epilogue."""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.network.dtype import DType

BLOCK_M = 128
STORE_ROWS = 64  # the result is staged and stored by halves of a tile
THREADS = 384
# Groups of eight columns whose operands of the epilogue are read together, by the width of tiles:
# what is left of the registers beside the sums.
AHEAD = {64: 2, 128: 8, 192: 2}
# Narrow tiles leave room for two blocks, whose epilogues hide each other's waits.
BLOCKS = {64: 2, 128: 1, 192: 1}
# Registers of a thread that copies, and of one that multiplies.
REGISTERS = {1: (40, 232), 2: (24, 104)}
_BARRIER_BYTES = 128  # two for each of up to six stages, and two


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand of the epilogue: "scalar", "column" (one value per n), "matrix" or "staged".

    A staged one is a matrix of the result's type that is fetched through a tensor map; at most one.
    """

    kind: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Taps:
    """The window of a convolution of y [., pixels, n], ``channel_steps`` stages per tap."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    pixels: tuple[int, int]
    channel_steps: int


@dataclass(frozen=True, slots=True)
class ProductForm:
    """What a source is for. ``shares_a``: the two blocks of a cluster share rows of a, else of b.

    ``row_bytes``: of an operand's tile in a stage, 128 or 64: what one swizzled row holds.
    ``is_even``: m and n are multiples of the tiles of a cluster. ``has_pairs``: n is even.
    ``expression``: C++ of the epilogue in ``i0`` (float; int for int8 operands), ``i1`` and so on.
    """

    dtype: DType
    out_dtype: DType
    block_n: int
    row_bytes: int
    stages: int
    shares_a: bool
    is_even: bool
    has_pairs: bool
    operands: tuple[Operand, ...]
    expression: str
    taps: Taps | None = None

    @property
    def has_staged(self) -> bool:
        """Whether an operand is fetched to where the result is staged."""
        return any(operand.kind == "staged" for operand in self.operands)

    @property
    def column_operands(self) -> int:
        """Operands of the epilogue with one value per column, which go through shared memory."""
        return sum(operand.kind == "column" for operand in self.operands)

    @property
    def column_bytes(self) -> int:
        """Of their floats, for one warpgroup."""
        return 4 * self.column_operands * self.block_n

    @property
    def columns_offset(self) -> int:
        """Where those lie: bytes behind the barriers' first."""
        return _BARRIER_BYTES

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor runs at a time."""
        return BLOCKS[self.block_n]

    @property
    def block_k(self) -> int:
        """Elements of a row of a stage."""
        return self.row_bytes // self.dtype.itemsize_bytes

    @property
    def store_columns(self) -> int:
        """Columns that one store moves: rows of 128 bytes, or of 64 for bytes."""
        return 64

    @property
    def store_row_bytes(self) -> int:
        """Bytes of them."""
        return self.store_columns * self.out_dtype.itemsize_bytes

    @property
    def box_rows(self) -> tuple[int, int]:
        """Rows of a and of b that one load fetches."""
        a, b = BLOCK_M, self.block_n
        return (a // 2, b) if self.shares_a else (a, b // 2)

    @property
    def staging_bytes(self) -> int:
        """Of one warpgroup: a half, or both where an operand is fetched to them."""
        return self.half_bytes * (2 if self.has_staged else 1)

    @property
    def half_bytes(self) -> int:
        """Of half a tile of the result."""
        return STORE_ROWS * self.block_n * self.out_dtype.itemsize_bytes

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        stage = (BLOCK_M + self.block_n) * self.row_bytes
        beside = 2 * (self.staging_bytes + self.column_bytes)
        return self.stages * stage + beside + _BARRIER_BYTES
