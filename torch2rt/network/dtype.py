"""Element types, without torch. A dtype knows its size, its numpy storage and its torch name."""

from __future__ import annotations

import enum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# An array as numpy can hold it; bfloat16 and float8 have no numpy type and are stored as bits.
Array = NDArray[Any]

_NUMPY_STORAGE = {"bfloat16": "uint16", "float8_e4m3fn": "uint8"}


class DType(enum.Enum):
    """An element type. The value is the name that torch, numpy and engine files share."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8_E4M3 = "float8_e4m3fn"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT8 = "uint8"
    BOOL = "bool"

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype that stores it: itself, or unsigned bits of the same size."""
        return np.dtype(_NUMPY_STORAGE.get(self.value, self.value))

    @property
    def is_stored_as_bits(self) -> bool:
        """Whether numpy can only hold its bits, not compute with it."""
        return self.value in _NUMPY_STORAGE

    @cached_property
    def itemsize_bytes(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point type."""
        return "float" in self.value

    @property
    def is_low_precision(self) -> bool:
        """Whether it is a float of 16 bits or fewer."""
        return self.is_float and self.itemsize_bytes <= 2

    @property
    def is_integer(self) -> bool:
        """Whether it is an integer type (bool is not)."""
        return "int" in self.value
