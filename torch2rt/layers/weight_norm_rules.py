"""Rule of weight normalisation: a weight as direction times length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch2rt import expression as ex
from torch2rt.layers.reduce import Reduce
from torch2rt.layers.rules import rule
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering


@rule("aten._weight_norm.default")
def lower_weight_norm(lowering: Lowering, v: Tensor, g: Tensor, dim: int) -> Tensor:
    """The product v * g / |v|, the norm over all axes but ``dim``, or over all of them for -1."""
    axes = tuple(axis for axis in range(v.rank) if axis != dim)
    squares = lowering.pointwise("square", v)
    total = lowering.add(Reduce("sum", axes, keepdim=True), squares)
    scale = ex.apply("div", ex.Input(1), ex.apply("sqrt", ex.Input(2)))
    return lowering.expression(ex.apply("mul", ex.Input(0), scale), v, g, total)
