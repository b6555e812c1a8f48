"""Shape arithmetic that several kinds share. All of it works on symbolic dims."""

from __future__ import annotations

from collections.abc import Sequence

from torch2rt.network.dim import Dim, floordiv
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Shape, TensorType


def broadcast(*shapes: Shape) -> Shape:
    """The shape that all broadcast to, as in torch. ValueError if they do not.

    A symbolic dim meets a plain integer other than 1 or another symbolic dim as its equal: the
    capture has guarded that they are.
    """
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        offset = rank - len(shape)
        for axis, dim in enumerate(shape):
            result[offset + axis] = _broadcast_dim(result[offset + axis], dim)
    return tuple(result)


def _broadcast_dim(left: Dim, right: Dim) -> Dim:
    if left == right or right == 1:
        return left
    if left == 1:
        return right
    if isinstance(left, int) and isinstance(right, int):
        raise ValueError(f"sizes {left} and {right} do not broadcast")
    return left if isinstance(left, int) else right


def normalize_axis(axis: int, rank: int) -> int:
    """A non-negative axis; ValueError if it is out of range. A scalar counts as rank 1."""
    rank = max(rank, 1)
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def expand_values(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One value per spatial axis: a single value or a list of one stands for all."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


def window_size(
    size: Dim, kernel: int, stride: int, padding: int, dilation: int, *, ceil: bool = False
) -> Dim:
    """Output length of a sliding window; ``padding`` is both sides together.

    ``ceil`` rounds up but drops a last window that would start in the right padding, as PyTorch's
    ``ceil_mode`` does; ``padding`` is then taken as symmetric.
    """
    reach = size + padding - dilation * (kernel - 1) - 1
    if not ceil:
        return floordiv(reach, stride) + 1
    length = floordiv(reach + stride - 1, stride) + 1
    if isinstance(length, int) and isinstance(size, int):
        return length - 1 if (length - 1) * stride >= size + padding // 2 else length
    raise ValueError("ceil_mode with a symbolic size is not supported")


_PROMOTION = (
    DType.BOOL, DType.UINT8, DType.INT8, DType.INT16, DType.INT32, DType.INT64,
    DType.FLOAT8_E4M3, DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64,
)


def promote(*types: TensorType) -> DType:
    """The dtype torch's type promotion gives; tensors with axes go before scalars."""
    with_axes = [type.dtype for type in types if type.rank]
    scalars = [type.dtype for type in types if not type.rank]
    result = _promote_all(with_axes)
    scalar = _promote_all(scalars)
    if result is None or scalar is None:
        found = result if result is not None else scalar
        if found is None:
            raise ValueError("no operands to promote")
        return found
    return scalar if _category(scalar) > _category(result) else result


def _category(dtype: DType) -> int:
    return 2 if dtype.is_float else 1 if dtype.is_integer else 0


def _promote_all(dtypes: Sequence[DType]) -> DType | None:
    if not dtypes:
        return None
    if {DType.UINT8, DType.INT8} <= set(dtypes):
        dtypes = [*dtypes, DType.INT16]
    if {DType.FLOAT16, DType.BFLOAT16} <= set(dtypes):
        dtypes = [*dtypes, DType.FLOAT32]
    return max(dtypes, key=_PROMOTION.index)
