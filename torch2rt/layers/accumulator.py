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
    if a.dtype not in (torch.int8, torch.uint8) or b.dtype not in (torch.int8, torch.uint8):
        return contract(a, b)
    largest = math.prod(255 if x.dtype == torch.uint8 else 128 for x in (a, b))
    # Convolutions of a GPU may be computed by transforms, which round even small integers.
    is_small = terms * largest <= _EXACT_IN_FLOAT32 and a.device.type == "cpu"
    wide = torch.float32 if is_small else torch.float64
    return contract(a.to(wide), b.to(wide)).round().to(torch.int32)
