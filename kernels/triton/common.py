# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""What our Triton kernels share: the order of tiles, epilogue operands, sums over parts of k.

Conversions between floats and small integers go through the mantissa of 1.5 * 2^23: sums and
bit operations run at full rate on every multiprocessor, the conversion instructions at an eighth
of it, which bounded the epilogues of bytes (4.5 elements per clock, as measured).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

# As a float, 1.5 * 2^23: its last bit counts ones. As an int, its bits.
MAGIC = tl.constexpr(12582912.0)
MAGIC_BITS = tl.constexpr(0x4B400000)


@triton.constexpr_function
def sum_type(element):
    """The dtype of sums of products of elements: int32 of integers, float32 of floats."""
    return tl.int32 if element.is_int() else tl.float32


@triton.jit
def small_to_float(x):
    """Integers between -2^22 and 2^22 in float32."""
    return (x.to(tl.int32) + MAGIC_BITS).to(tl.float32, bitcast=True) - MAGIC


@triton.jit
def to_float(x):
    """Elements of a tensor in float32."""
    if x.dtype == tl.int8:
        return small_to_float(x)
    else:
        return x.to(tl.float32)


@triton.jit
def round_int8(x, LOW: tl.constexpr, HIGH: tl.constexpr):
    """The nearest integer, ties to even, cut to LOW..HIGH, LOW -inf where x is never lower."""
    if LOW != float("-inf"):
        x = tl.maximum(x, LOW)
    x = tl.minimum(x, HIGH)
    return (x + MAGIC).to(tl.int32, bitcast=True).to(tl.int8)


@triton.jit
def start(OVERLAPS: tl.constexpr):
    """Wait for the kernel ahead. Never release the one behind: see the prelude of CUDA C++."""
    if OVERLAPS:
        gdc_wait()


@triton.jit
def fetch_ahead(
    weights, pitch, first, count, begin, end, ROWS: tl.constexpr, OVERLAPS: tl.constexpr,
):
    """Bring ROWS rows of weights, from byte ``begin`` to ``end`` of each, into the L2 cache.

    Before `start`: weights do not depend on the kernel ahead. ``pitch`` is in bytes; ``weights``
    is None where it is not worth it.
    """
    if OVERLAPS and weights is not None:
        rows = tl.minimum(first + tl.arange(0, ROWS), count - 1)
        for byte in range(begin, end, 512):
            bytes = tl.minimum(byte + 128 * tl.arange(0, 4), end - 1)
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; // no result: $0", "=r,l",
                [weights + rows[:, None] * pitch + bytes[None, :]], dtype=tl.int32, is_pure=False,
                pack=1,
            )


@triton.jit
def tile_of(index, tiles_m, tiles_n, GROUP: tl.constexpr):
    """(row, column) of the index-th tile: blocks of GROUP rows, so that neighbours share the L2."""
    width = GROUP * tiles_n
    first = index // width * GROUP
    size = tl.minimum(tiles_m - first, GROUP)
    inside = index % width
    return first + inside % size, inside // size


@triton.jit
def read_operand(
    operand, row_stride, row, column, m, n,
    KIND: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """The tile of an epilogue operand that starts at (row, column), in float32.

    KIND: "none", "scalar", "column" [n], "matrix" [m, n] by pointer, "map" [m, n] by tensor map.
    """
    if KIND == "scalar":
        return to_float(tl.load(operand))
    elif KIND == "column":
        columns = column + tl.arange(0, BLOCK_N)
        return to_float(tl.load(operand + columns, mask=columns < n, other=0.0))[None, :]
    elif KIND == "matrix":
        rows = row + tl.arange(0, BLOCK_M)
        columns = column + tl.arange(0, BLOCK_N)
        places = rows[:, None] * row_stride + columns[None, :]
        mask = (rows < m)[:, None] & (columns < n)[None, :]
        return to_float(tl.load(operand + places, mask=mask, other=0.0))
    elif KIND == "map":
        return to_float(operand.load([row, column]))
    else:
        return 0.0


@triton.jit
def write_part(
    acc, partial, index, part, PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """Leave this block's share of a tile's sum in the workspace [tiles, PARTS, tile]."""
    inside = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    place = (index * PARTS + part).to(tl.int64) * (BLOCK_M * BLOCK_N)
    tl.store(partial + place + inside, acc)
    tl.debug_barrier()


@triton.jit
def sum_parts(
    partial, index, PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """The sum of all parts of a tile, always in the same order; unrolled, so that loads overlap."""
    inside = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    place = (index * PARTS).to(tl.int64) * (BLOCK_M * BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), partial.dtype.element_ty)
    for part in tl.static_range(PARTS):
        tile = partial + place + part * (BLOCK_M * BLOCK_N)
        acc += tl.load(tile + inside, cache_modifier=".cg")
    return acc
