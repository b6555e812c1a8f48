"""Which weights Hopper's tensor cores may sum in float8, whose sums keep about 14 bits there.

Before a product of E4M3 is added, bits below 2^-13 of the leading one of the sum so far are cut
off, of either sign: half the last bit on average. Where signs vary, that is 3e-3 of the norm of the
results at 16384 terms, a tenth of what rounding the factors to float8 costs, and needs no second
sum in registers. Of one sign, t terms lose about t / 57000 of their sum: 7 % at 4096, where
candidates may be 6 % off (`build.check.BOUNDS`), and rounding costs 0.2 %. Both figures are those
of a model of the hardware, in tests/backends/cuda/test_float8_sums.py. Weights that are refused are
multiplied by cuBLASLt's exact sums, and by Triton's kernels, which then add every 128 in float32.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from torch2rt.backends.tactic import Refusal
from torch2rt.network.dtype import Array

# A loss of 3.6 % of the sum if all that the weights are multiplied with has one sign.
MOST_TERMS_OF_ONE_SIGN = 2048
_ROWS_AT_A_TIME, _SAMPLED_ROWS, _MOST_KNOWN = 256, 16, 4096
_known: dict[tuple[object, ...], int] = {}


def sums_refusal(rows: Array) -> Refusal | None:
    """Why sums with these weights, bits of E4M3 as [n, k], would lose too much."""
    terms = terms_of_one_sign(rows)
    if terms <= MOST_TERMS_OF_ONE_SIGN:
        return None
    return Refusal(f"sums of {terms} products of one sign, too many for 14 bits of a sum")


def terms_of_one_sign(rows: Array) -> int:
    """How many more terms have one sign than the other, by their size, in the row with most."""
    count, terms = rows.shape
    if terms <= MOST_TERMS_OF_ONE_SIGN:
        return 0
    # Every candidate of a layer asks, several times: an array is known by its place and a sample.
    sample = zlib.crc32(rows[:: max(1, count // _SAMPLED_ROWS)].tobytes())
    key = (rows.__array_interface__["data"][0], rows.shape, rows.strides, sample)
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _most_of_one_sign(rows)
    return _known[key]


def _most_of_one_sign(rows: Array) -> int:
    count, terms = rows.shape
    values, ones, most = _values(), np.ones(terms, np.float32), 0.0
    for first in range(0, count, _ROWS_AT_A_TIME):
        block = rows[first : first + _ROWS_AT_A_TIME]
        sums, sizes = values[block] @ ones, np.abs(values)[block] @ ones
        most = max(most, float((np.abs(sums) / np.maximum(sizes, 2.0**-9)).max()))
    return int(terms * most)


def _values() -> Any:
    """What the 256 numbers of E4M3 stand for; NaN counts as nothing."""
    bits = np.arange(256, dtype=np.uint32)
    sizes = ((bits & 0x7F) << 20).view(np.float32) * np.float32(2.0**120)
    return np.where((bits & 0x7F) == 0x7F, 0, np.where(bits & 0x80, -sizes, sizes)).astype(
        np.float32
    )
