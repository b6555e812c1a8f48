"""Types of printed expressions: torch's promotion, conversions and literals in C++."""

from __future__ import annotations

import math

from torch2rt import expression as ex
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.network.dtype import DType

_FLOAT_MAX = 3.4028235677973366e38


def default_dtype(constant: ex.Scalar) -> DType:
    """The dtype of a tensor that torch makes of a number."""
    if isinstance(constant, bool):
        return DType.BOOL
    return DType.INT64 if isinstance(constant, int) else DType.FLOAT32


def promote(x: DType, y: DType) -> DType:
    """The dtype of an operation on two tensors."""
    if x is y or y is DType.BOOL:
        return x
    if x is DType.BOOL:
        return y
    if x.is_float != y.is_float:
        return x if x.is_float else y
    wider, other = (x, y) if x.itemsize_bytes >= y.itemsize_bytes else (y, x)
    if wider.itemsize_bytes > other.itemsize_bytes:
        return wider
    return DType.FLOAT32 if x.is_float else DType.INT16  # float16, bfloat16; int8, uint8


def promote_scalar(dtype: DType, constant: ex.Scalar) -> DType:
    """The dtype of an operation on a tensor and a number: only a higher category counts."""
    if isinstance(constant, bool) or dtype.is_float:
        return dtype
    if isinstance(constant, float):
        return DType.FLOAT32
    return DType.INT64 if dtype is DType.BOOL else dtype


def cpp_convert(text: str, source: DType, target: DType) -> str:
    """A value converted between the types that dtypes are computed with."""
    if source is target or (_is_single(source) and _is_single(target)):
        return text
    if target is DType.BOOL:
        return f"({text} != 0)"
    if _is_single(target):
        return f"(float)({text})"
    if source.is_float and target.is_integer and target.itemsize_bytes < 4:
        return f"({c_type(target)})(i32)({text})"  # wraps
    return f"({c_type(target)})({text})"


def _is_single(dtype: DType) -> bool:
    return dtype.is_float and dtype is not DType.FLOAT64


def cpp_literal(constant: ex.Scalar, dtype: DType) -> str:
    """A number as a literal of the type that a dtype is computed with."""
    if dtype is DType.BOOL:
        return "true" if constant else "false"
    if dtype.is_float:
        return _float_literal(float(constant), dtype)
    number = int(constant)
    if number == -(2**63):
        return "(-9223372036854775807LL - 1)"
    return f"({c_type(dtype)}){number}LL" if number >= 0 else f"({c_type(dtype)})({number}LL)"


def _float_literal(number: float, dtype: DType) -> str:
    suffix, cast = ("", "(double)") if dtype is DType.FLOAT64 else ("f", "")
    if math.isnan(number):
        return f"{cast}t2r_nan()"
    is_beyond = math.isinf(number) or (suffix == "f" and abs(number) >= _FLOAT_MAX)
    text = f"{cast}t2r_infinity()" if is_beyond else f"{abs(number)!r}{suffix}"
    return text if math.copysign(1.0, number) > 0 else f"(-{text})"
