# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""y = epilogue(a b) through pointers: any sizes, any strides, batches with broadcast axes.

a [outer, inner, m, k], b [outer, inner, k, n] and epilogue matrices have any strides (0 where they
repeat); the last axis of y and of epilogue matrices is dense. PARTS > 1 cuts k as gemm_tma_split
does. b may be int8 beside a float a: it is converted on the way to the tensor cores. Bytes moved:
a once per column of tiles, b once per row of tiles; y once.
Architectures: sm_80 and newer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch2rt.kernels.triton.common import (
    read_operand,
    start,
    sum_parts,
    sum_type,
    tile_of,
    write_part,
)


@triton.jit
def epilogue(acc, i1, i2, i3):
    """What is stored for an accumulator; replaced by the layer's own."""
    return acc


@triton.jit
def gemm(
    a, b, y, e1, e2, e3, partial, counters, m, n, k, inner,
    a_row, a_k, b_k, b_column, y_row, e1_row, e2_row, e3_row,
    a_outer, a_inner, b_outer, b_inner, y_outer, y_inner,
    e1_outer, e1_inner, e2_outer, e2_inner, e3_outer, e3_inner,
    E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    IS_EVEN_K: tl.constexpr, PRECISION: tl.constexpr, SUM_TERMS: tl.constexpr,
    OVERLAPS: tl.constexpr, PARTS: tl.constexpr,
):
    """Grid: (tiles, PARTS, matrices of the batch)."""
    start(OVERLAPS)
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    steps = tl.cdiv(k, BLOCK_K)
    part = tl.program_id(1)
    matrix = tl.program_id(2)
    far = matrix // inner
    near = matrix % inner
    tile_row, tile_column = tile_of(tl.program_id(0), tiles_m, tiles_n, GROUP)
    row = tile_row * BLOCK_M
    column = tile_column * BLOCK_N
    rows = row + tl.arange(0, BLOCK_M)
    columns = column + tl.arange(0, BLOCK_N)
    first = part * steps // PARTS * BLOCK_K
    ks = first + tl.arange(0, BLOCK_K)
    left_at = a + far * a_outer + near * a_inner + rows[:, None] * a_row + ks[None, :] * a_k
    right_at = b + far * b_outer + near * b_inner + ks[:, None] * b_k + columns[None, :] * b_column
    is_row = (rows < m)[:, None]
    is_column = (columns < n)[None, :]
    SUM: tl.constexpr = sum_type(a.dtype.element_ty)
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
    for step in range(part * steps // PARTS, (part + 1) * steps // PARTS):
        if IS_EVEN_K:
            left = tl.load(left_at, mask=is_row, other=0.0)
            right = tl.load(right_at, mask=is_column, other=0.0)
        else:
            here = step * BLOCK_K + tl.arange(0, BLOCK_K)
            left = tl.load(left_at, mask=is_row & (here < k)[None, :], other=0.0)
            right = tl.load(right_at, mask=is_column & (here < k)[:, None], other=0.0)
        if right.dtype != left.dtype:  # weights stored in 8 bits
            right = right.to(left.dtype)
        acc = tl.dot(
            left, right, acc, input_precision=PRECISION, out_dtype=SUM,
            max_num_imprecise_acc=SUM_TERMS,
        )
        left_at += BLOCK_K * a_k
        right_at += BLOCK_K * b_k
    is_last = True
    if PARTS > 1:
        index = matrix * tl.num_programs(0) + tl.program_id(0)
        write_part(acc, partial, index, part, PARTS, BLOCK_M, BLOCK_N)
        is_last = tl.atomic_add(counters + index, 1, sem="acq_rel") == PARTS - 1
    if is_last:
        if PARTS > 1:
            tl.store(counters + index, 0)
            acc = sum_parts(partial, index, PARTS, BLOCK_M, BLOCK_N)
        first1 = e1 if E1 != "matrix" else e1 + far * e1_outer + near * e1_inner
        first2 = e2 if E2 != "matrix" else e2 + far * e2_outer + near * e2_inner
        first3 = e3 if E3 != "matrix" else e3 + far * e3_outer + near * e3_inner
        i1 = read_operand(first1, e1_row, row, column, m, n, E1, BLOCK_M, BLOCK_N)
        i2 = read_operand(first2, e2_row, row, column, m, n, E2, BLOCK_M, BLOCK_N)
        i3 = read_operand(first3, e3_row, row, column, m, n, E3, BLOCK_M, BLOCK_N)
        result = epilogue(acc, i1, i2, i3).to(y.dtype.element_ty)
        places = far * y_outer + near * y_inner + rows[:, None] * y_row + columns[None, :]
        tl.store(y + places, result, mask=is_row & is_column)
