"""Triton kernels of a user, in a file of their own, as Triton reads sources."""

from __future__ import annotations

import triton
import triton.language as tl

HALF = tl.constexpr(0.5)


@triton.jit
def halved(value):
    return value * HALF


@triton.jit
def leaky(x, y, count, slope, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place, mask=place < count).to(tl.float32)
    result = halved(tl.where(value > 0, value, slope * value))
    tl.store(y + place, result.to(y.dtype.element_ty), mask=place < count)
