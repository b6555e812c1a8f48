"""What a contraction sums its products in, and exact sums of 8-bit integers in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

EIGHT_BITS = (DType.INT8, DType.UINT8)
# float32 holds every integer up to here.
_EXACT_IN_FLOAT32 = 2**24


def has_stored_weights(a: DType, b: DType) -> bool:
    """Whether a product is of floats and of weights that are stored in 8 bits."""
    return b is DType.INT8 and a.is_float and a is not DType.FLOAT8_E4M3


def accumulator_dtype(a: DType, b: DType) -> DType:
    """The dtype of a sum of products of two operands.

    8-bit integers, signed or not, sum to int32, float8 to float32, everything else to itself.
    ValueError for two dtypes that do not multiply.
    """
    if a in EIGHT_BITS and b in EIGHT_BITS:
        return DType.INT32
    if a is not b:
        raise ValueError(f"dtypes {a.value} and {b.value} differ")
    return DType.FLOAT32 if a is DType.FLOAT8_E4M3 else a


def summed_exactly(
    contract: Callable[[TorchTensor, TorchTensor], TorchTensor],
    a: TorchTensor, b: TorchTensor, terms: int,
) -> TorchTensor:
    """``contract(a, b)``, a sum of ``terms`` products; int32 for operands of 8-bit integers.

    Those are computed in a float that holds every partial sum. Anything else is left to torch.
    """
    sizes = (_largest_byte(a), _largest_byte(b))
    if 0 in sizes:
        return contract(a, b)
    # Convolutions of a GPU may be computed by transforms, which round even small integers.
    if a.device.type != "cpu" or terms * sizes[0] * 15 > _EXACT_IN_FLOAT32:
        return contract(a.double(), b.double()).to(torch.int32)
    if terms * math.prod(sizes) <= _EXACT_IN_FLOAT32:
        return contract(a.float(), b.float()).to(torch.int32)
    high, low = b >> 4, b & 15  # b = 16 high + low
    products = [contract(a.float(), part.float()).to(torch.int32) for part in (high, low)]
    return (products[0] << 4) + products[1]


def _largest_byte(x: TorchTensor) -> int:
    """The largest magnitude that 8-bit integers of this dtype have; 0 for other dtypes."""
    if x.dtype == torch.uint8:
        return 255
    return 128 if x.dtype == torch.int8 else 0
