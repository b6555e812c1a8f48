"""The dtype an expression has of itself, by torch's promotion, before a layer rounds it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import torch

from torch2rt import expression as ex
from torch2rt.network.dtype import DType
from torch2rt.network.layer import widen
from torch2rt.network.tensor import Tensor
from torch2rt.torch_values import dtype_from_torch, dtype_to_torch

# An operand as promotion sees it: its dtype, and whether it has no axes.
Operand: TypeAlias = tuple[DType, bool]

_COMPUTED_IN_FLOAT32 = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)


def operand(tensor: Tensor) -> Operand:
    """A tensor as promotion sees it."""
    return tensor.dtype, tensor.rank == 0


def natural_dtype(expression: ex.Expression, operands: Sequence[Operand]) -> DType | None:
    """The dtype of the value as `run_reference` computes it: low-precision inputs are widened.

    None when torch does not take such operands.
    """
    return _natural_dtype(expression, tuple(operands))


@lru_cache(maxsize=65536)
def _natural_dtype(expression: ex.Expression, operands: tuple[Operand, ...]) -> DType | None:
    inputs = [
        widen(torch.ones(() if is_scalar else (1,), dtype=dtype_to_torch(dtype)))
        for dtype, is_scalar in operands
    ]
    try:
        return dtype_from_torch(ex.evaluate_torch(expression, inputs).dtype)
    except (RuntimeError, TypeError, ValueError):
        return None


def cast_between(value: ex.Expression, natural: DType | None, stored: DType) -> ex.Expression:
    """The value as a layer would have stored it, for use inside a larger expression.

    Rounding a float to 16 bits is left out: a fused kernel is at least as precise. Example: an
    int64 sum stored as float32 becomes ``to_float32(add(i0,i1))``.
    """
    match value:
        case ex.Apply("to_float16" | "to_bfloat16", (rounded,)) if natural == stored:
            return ex.cast(DType.FLOAT32, rounded)
    if natural == stored or (natural in _COMPUTED_IN_FLOAT32 and stored in _COMPUTED_IN_FLOAT32):
        return value
    if stored == DType.FLOAT8_E4M3:
        value = ex.cast(stored, value)
    is_wide = stored in _COMPUTED_IN_FLOAT32 or stored == DType.FLOAT8_E4M3
    return ex.cast(DType.FLOAT32 if is_wide else stored, value)
