"""Conversion of torch tensors to our dtypes, alike in every version of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

FLOAT8_MAX = 448.0


def to_dtype(x: TorchTensor, dtype: DType) -> TorchTensor:
    """``x.to(dtype)``; float8 saturates at +-448, infinities too, and NaN stays NaN.

    What torch makes of values beyond 448 by itself is NaN or 448, by its version.
    """
    wanted: torch.dtype = getattr(torch, dtype.value)
    if dtype is DType.FLOAT8_E4M3 and x.dtype != wanted:
        x = x.clamp(-FLOAT8_MAX, FLOAT8_MAX)
    return x.to(wanted)
