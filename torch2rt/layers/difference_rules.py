"""Rule of torch.diff: differences of neighbours along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch2rt.layers.concat import concat
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.layers.slice import slice_axis
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering


@rule("aten.diff.default")
def lower_diff(
    lowering: Lowering, input: Tensor, n: int, dim: int, prepend: Tensor | None,
    append: Tensor | None,
) -> Tensor:
    """y[i] = x[i + 1] - x[i], n times; for booleans, whether they differ."""
    axis = normalize_axis(dim, input.rank)
    parts = [part for part in (prepend, input, append) if part is not None]
    if any(part.dtype != input.dtype for part in parts):
        raise Unsupported("diff of tensors of several dtypes")
    x = concat(lowering, parts, axis) if len(parts) > 1 else input
    op = "logical_xor" if input.dtype is DType.BOOL else "sub"
    for _ in range(n):
        length = x.shape[axis] - 1
        if isinstance(length, int) and length < 0:
            raise Unsupported("diff along an empty axis")
        later, earlier = (slice_axis(lowering, x, axis, start, length) for start in (1, 0))
        x = lowering.pointwise(op, later, earlier, dtype=input.dtype)
    return x
