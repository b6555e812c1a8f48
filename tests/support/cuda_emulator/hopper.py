"""Tensor maps for the emulated device: what `hopper.h` reads, refused as the driver would."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

_ITEMSIZES = {0: 1, 6: 2, 9: 2}  # CUtensorMapDataType
# CUtensorMapSwizzle: the bytes of a row whose units are exchanged.
_SWIZZLES = {0: 0, 2: 64, 3: 128}
_INVALID = 1


def encode_tiled(
    raw: int, element: int, rank: int, address: int, shape: Any, strides: Any, box: Any, steps: Any,
    interleave: int, swizzle: int, promotion: int, fill: int,
) -> int:
    """cuTensorMapEncodeTiled for rows as long as they are swizzled, or not; its status."""
    item = _ITEMSIZES[element]
    outer = list(strides)[: rank - 1]
    is_valid = (
        address % 16 == 0 and all(0 < size <= 256 for size in box)
        and all(0 < size < 2**32 for size in shape)
        and all(stride % 16 == 0 and 0 < stride < 2**40 for stride in outer)
        and box[0] * item in (64, 128) and _SWIZZLES[swizzle] in (0, box[0] * item)
        and all(step == 1 for step in steps)
    )
    if not is_valid:
        return _INVALID
    spare = [0] * (5 - rank)
    packed = struct.pack(
        "<5Q13I", address, *outer, *spare, *shape, *spare, *box, *spare, rank, item,
        _SWIZZLES[swizzle],
    )
    ctypes.memmove(raw, packed, len(packed))
    return 0
