# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""y = softmax(scale * q k^T + mask) v without ever storing the scores.

A block takes BLOCK_M rows of one matrix of the batch and walks over the keys, BLOCK_N at a time;
it keeps a running maximum and sum per row, and rescales what it has when the maximum grows. The
batch has three axes (far, mid, near) with any strides, 0 where an operand repeats. Features are
padded with zeros to E and D, powers of two. A row whose keys are all hidden gives zeros.
float8 is multiplied as it is by q and k; of v it is made float16, which is exact, so that shares
keep the bits of a float16. What follows, scales too, is the layer's epilogue.
IS_MAPPED: q, k and v are tensor maps [far, mid, rows, features]; that of q has mid and near as
one axis, as heads of queries are that share keys, and k and v do not change along near.
Bytes moved: q and y once, k and v once per block of rows, mostly from the L2.
Architectures: sm_80 and newer; tensor maps sm_90 and newer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch2rt.kernels.triton.common import start


@triton.jit
def epilogue(acc, i1, i2, i3):
    """What is stored for a result; replaced by the layer's own."""
    return acc


@triton.jit
def read_rows(
    x, far, mid, near, first, rows, features,
    x_far, x_mid, x_near, x_row,
    BLOCK: tl.constexpr, SIZE: tl.constexpr, IS_MAPPED: tl.constexpr, IS_EVEN: tl.constexpr,
):
    """BLOCK rows of a matrix from ``first`` on, SIZE features."""
    if IS_MAPPED:
        return x.load([far, mid, first, 0]).reshape(BLOCK, SIZE)
    else:
        at = first + tl.arange(0, BLOCK)
        columns = tl.arange(0, SIZE)
        places = far * x_far + mid * x_mid + near * x_near + at[:, None] * x_row + columns[None, :]
        if IS_EVEN:
            return tl.load(x + places, mask=(at < rows)[:, None], other=0.0)
        else:
            mask = (at < rows)[:, None] & (columns < features)[None, :]
            return tl.load(x + places, mask=mask, other=0.0)


@triton.jit
def attention(
    q, k, v, mask, y, rows, keys, e, d, mid_size, near_size,
    q_far, q_mid, q_near, q_row, k_far, k_mid, k_near, k_row, v_far, v_mid, v_near, v_row,
    mask_far, mask_mid, mask_near, mask_row, mask_key, y_far, y_mid, y_near, y_row,
    SCALE: tl.constexpr, MASK: tl.constexpr, IS_CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, E: tl.constexpr, D: tl.constexpr,
    IS_EVEN_E: tl.constexpr, IS_EVEN_D: tl.constexpr, IS_MAPPED: tl.constexpr,
    PRECISION: tl.constexpr, OVERLAPS: tl.constexpr,
):
    """Grid: (blocks of rows, matrices of the batch). SCALE is that of scores in base 2."""
    LOG2E: tl.constexpr = 1.4426950408889634
    start(OVERLAPS)
    first = tl.program_id(0) * BLOCK_M
    matrix = tl.program_id(1)
    near = matrix % near_size
    mid = matrix // near_size % mid_size
    far = matrix // near_size // mid_size
    at = first + tl.arange(0, BLOCK_M)
    query = read_rows(
        q, far, mid * near_size + near if IS_MAPPED else mid, near, first, rows, e,
        q_far, q_mid, q_near, q_row, BLOCK_M, E, IS_MAPPED, IS_EVEN_E,
    )
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    last = tl.minimum(keys, first + BLOCK_M) if IS_CAUSAL else keys
    for block in range(0, last, BLOCK_N):
        key = read_rows(
            k, far, mid, near, block, keys, e, k_far, k_mid, k_near, k_row, BLOCK_N, E, IS_MAPPED,
            IS_EVEN_E,
        )
        scores = tl.dot(query, key.T, input_precision=PRECISION) * SCALE
        here = block + tl.arange(0, BLOCK_N)
        is_shown = (here < keys)[None, :]
        if IS_CAUSAL:
            is_shown = is_shown & (here[None, :] <= at[:, None])
        if MASK != "none":
            places = far * mask_far + mid * mask_mid + near * mask_near
            places = places + at[:, None] * mask_row + here[None, :] * mask_key
            is_there = (at < rows)[:, None] & (here < keys)[None, :]
            values = tl.load(mask + places, mask=is_there, other=0)
            if MASK == "bool":
                is_shown = is_shown & (values != 0)
            else:
                scores += values.to(tl.float32) * LOG2E
        scores = tl.where(is_shown, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        shares = tl.exp2(scores - shift[:, None])
        shrink = tl.exp2(highest - shift)
        total = total * shrink + tl.sum(shares, 1)
        value = read_rows(
            v, far, mid, near, block, keys, d, v_far, v_mid, v_near, v_row, BLOCK_N, D, IS_MAPPED,
            IS_EVEN_D,
        )
        if value.dtype.is_fp8():
            value = value.to(tl.float16)
        acc = acc * shrink[:, None]
        acc = tl.dot(shares.to(value.dtype), value, acc, input_precision=PRECISION)
        highest = higher
    result = epilogue(acc / tl.where(total == 0.0, 1.0, total)[:, None], 0.0, 0.0, 0.0)
    columns = tl.arange(0, D)
    places = far * y_far + mid * y_mid + near * y_near + at[:, None] * y_row + columns[None, :]
    is_inside = (at < rows)[:, None] & (columns < d)[None, :]
    tl.store(y + places, result.to(y.dtype.element_ty), mask=is_inside)
