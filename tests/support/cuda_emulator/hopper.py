"""Tensor maps for the emulated device: what `hopper.h` reads, refused as the driver would."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pytest

from torch2rt.backends.cuda.triton import tensor_map

_ITEMSIZES = {0: 1, 6: 2, 9: 2}  # CUtensorMapDataType
_SWIZZLE_128B = 3
_INVALID = 1


def encode_tiled(
    raw: int, element: int, rank: int, address: int, shape: Any, strides: Any, box: Any, steps: Any,
    interleave: int, swizzle: int, promotion: int, fill: int,
) -> int:
    """cuTensorMapEncodeTiled for swizzled rows of at most 128 bytes; its status."""
    item = _ITEMSIZES[element]
    outer = list(strides)[: rank - 1]
    is_valid = (
        address % 16 == 0 and all(0 < size <= 256 for size in box)
        and all(0 < size < 2**32 for size in shape)
        and all(stride % 16 == 0 and 0 < stride < 2**40 for stride in outer)
        and box[0] * item == 128 and swizzle == _SWIZZLE_128B and all(step == 1 for step in steps)
    )
    if not is_valid:
        return _INVALID
    spare = [0] * (5 - rank)
    packed = struct.pack(
        "<5Q12I", address, *outer, *spare, *shape, *spare, *box, *spare, rank, item
    )
    ctypes.memmove(raw, packed, len(packed))
    return 0


@pytest.fixture
def emulated_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are made without a driver; not for tests on a GPU."""
    monkeypatch.setattr(tensor_map, "_encode_tiled", lambda: encode_tiled)
