"""Conversions between torch's values and ours: tensors, dtypes, symbolic sizes."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import torch

from torch2rt.network.dim import Dim, call, parse_dim, symbol
from torch2rt.network.dtype import Array, DType

_BITS = {torch.bfloat16: torch.uint16, torch.float8_e4m3fn: torch.uint8}


def dtype_from_torch(dtype: torch.dtype) -> DType:
    """Our dtype of the same name. ValueError names one we do not have (complex, quantized)."""
    name = str(dtype).removeprefix("torch.")
    try:
        return DType(name)
    except ValueError as error:
        raise ValueError(f"dtype {name} is not supported") from error


def dtype_to_torch(dtype: DType) -> torch.dtype:
    """Torch's dtype of the same name."""
    found: torch.dtype = getattr(torch, dtype.value)
    return found


def constant_from_torch(value: torch.Tensor) -> tuple[Array, DType]:
    """A copy of a tensor's data as a contiguous array, and its dtype."""
    dtype = dtype_from_torch(value.dtype)
    plain = value.detach().to("cpu").contiguous()
    if plain.dtype in _BITS:
        plain = plain.view(_BITS[plain.dtype])
    return np.array(plain.numpy(), copy=True), dtype


def constant_to_torch(data: Array, dtype: DType) -> torch.Tensor:
    """A torch tensor that shares the memory of a constant. Not to be written to."""
    if not data.flags.writeable:
        data = data.copy()
    tensor = torch.from_numpy(np.ascontiguousarray(data).reshape(data.shape))
    return tensor.view(dtype_to_torch(dtype)) if dtype.is_stored_as_bits else tensor


def dim_from_torch(value: int | torch.SymInt) -> Dim:
    """A size as a dim: a plain integer, or the sympy expression behind a SymInt."""
    if isinstance(value, int):
        return value
    return _from_sympy(value.node.expr)


_CALLS = {
    "FloorDiv": "floordiv", "CleanDiv": "floordiv", "Mod": "mod", "PythonMod": "mod",
    "Max": "max", "Min": "min",
}


def _from_sympy(expression: Any) -> Dim:
    kind = type(expression).__name__
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        return symbol(str(expression))
    arguments = [_from_sympy(argument) for argument in expression.args]
    if kind == "Add":
        return reduce(lambda a, b: a + b, arguments)
    if kind == "Mul":
        return reduce(lambda a, b: a * b, arguments)
    if kind == "Pow" and isinstance(arguments[1], int) and arguments[1] > 0:
        return reduce(lambda a, b: a * b, [arguments[0]] * arguments[1])
    if kind in _CALLS and len(arguments) >= 2:
        return reduce(lambda a, b: call(_CALLS[kind], a, b), arguments)
    return parse_dim(str(expression))
