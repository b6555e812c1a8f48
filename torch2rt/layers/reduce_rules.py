"""Rules of reductions that are several layers: variances, norms, log-sum-exp, similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch2rt import expression as ex
from torch2rt.layers.reduce import reduce, reduced_shape, reduction_axes
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.network.dim import product
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering

Axes = int | Sequence[int] | None


@rule("aten.var.correction")
def lower_var(
    lowering: Lowering, input: Tensor, dim: Axes, correction: float | None, keepdim: bool
) -> Tensor:
    """Sum of squared differences from the mean over (n - correction)."""
    return _var_mean(lowering, input, dim, _correction(correction), keepdim)[0]


@rule("aten.var.default", "aten.var.dim")
def lower_var_unbiased(
    lowering: Lowering, input: Tensor, unbiased: bool, dim: Axes = None, keepdim: bool = False
) -> Tensor:
    """The same with correction 1 or 0."""
    return _var_mean(lowering, input, dim, float(unbiased), keepdim)[0]


@rule("aten.std.correction")
def lower_std(
    lowering: Lowering, input: Tensor, dim: Axes, correction: float | None, keepdim: bool
) -> Tensor:
    """Square root of the variance."""
    return _root(lowering, _var_mean(lowering, input, dim, _correction(correction), keepdim)[0])


@rule("aten.std.default", "aten.std.dim")
def lower_std_unbiased(
    lowering: Lowering, input: Tensor, unbiased: bool, dim: Axes = None, keepdim: bool = False
) -> Tensor:
    """The same with correction 1 or 0."""
    return _root(lowering, _var_mean(lowering, input, dim, float(unbiased), keepdim)[0])


@rule("aten.var_mean.correction")
def lower_var_mean(
    lowering: Lowering, input: Tensor, dim: Axes, correction: float | None, keepdim: bool
) -> list[Tensor]:
    """Variance and mean."""
    return _var_mean(lowering, input, dim, _correction(correction), keepdim)


@rule("aten.var_mean.default", "aten.var_mean.dim")
def lower_var_mean_unbiased(
    lowering: Lowering, input: Tensor, unbiased: bool, dim: Axes = None, keepdim: bool = False
) -> list[Tensor]:
    """Variance with correction 1 or 0, and mean."""
    return _var_mean(lowering, input, dim, float(unbiased), keepdim)


@rule("aten.std_mean.correction")
def lower_std_mean(
    lowering: Lowering, input: Tensor, dim: Axes, correction: float | None, keepdim: bool
) -> list[Tensor]:
    """Standard deviation and mean."""
    variance, mean = _var_mean(lowering, input, dim, _correction(correction), keepdim)
    return [_root(lowering, variance), mean]


@rule("aten.std_mean.default", "aten.std_mean.dim")
def lower_std_mean_unbiased(
    lowering: Lowering, input: Tensor, unbiased: bool, dim: Axes = None, keepdim: bool = False
) -> list[Tensor]:
    """Standard deviation with correction 1 or 0, and mean."""
    variance, mean = _var_mean(lowering, input, dim, float(unbiased), keepdim)
    return [_root(lowering, variance), mean]


@rule("aten.linalg_vector_norm.default")
def lower_vector_norm(
    lowering: Lowering, input: Tensor, ord: float, dim: Axes, keepdim: bool, dtype: DType | None
) -> Tensor:
    """(sum of |x|^ord)^(1/ord), with the limits for 0, inf and -inf."""
    return _norm(lowering, input, ord, dim, keepdim)


@rule("aten.norm.Scalar", "aten.norm.ScalarOpt_dtype", "aten.norm.ScalarOpt_dim",
      "aten.norm.ScalarOpt_dim_dtype")
def lower_norm(
    lowering: Lowering, input: Tensor, p: float | None, dim: Axes = None, keepdim: bool = False,
    dtype: DType | None = None,
) -> Tensor:
    """The vector norm; p is 2 unless given."""
    return _norm(lowering, input, 2 if p is None else p, dim, keepdim)


@rule("aten.linalg_norm.default")
def lower_linalg_norm(
    lowering: Lowering, input: Tensor, ord: float | None, dim: Axes, keepdim: bool,
    dtype: DType | None,
) -> Tensor:
    """A vector norm where torch takes one: not a matrix norm of given order over two axes."""
    is_vector = input.rank == 1 if dim is None else len(reduction_axes(dim, input.rank)) == 1
    if ord is not None and not is_vector:
        raise Unsupported(f"matrix norm of order {ord}")
    return _norm(lowering, input, 2 if ord is None else ord, dim, keepdim)


@rule("aten.frobenius_norm.dim")
def lower_frobenius_norm(lowering: Lowering, input: Tensor, dim: Axes, keepdim: bool) -> Tensor:
    """The vector norm of order 2."""
    return _norm(lowering, input, 2, dim, keepdim)


@rule("aten.logsumexp.default", "aten.special_logsumexp.default")
def lower_logsumexp(lowering: Lowering, input: Tensor, dim: Axes, keepdim: bool) -> Tensor:
    """log(sum(exp(x - m))) + m with m the largest x, or 0 where that is infinite."""
    dtype = lowering.output_type.dtype
    x = lowering.cast(input, dtype)
    axes = reduction_axes(dim, x.rank)
    largest = reduce(lowering, "max", x, axes, keepdim=True)
    shift = ex.apply("where", ex.apply("isinf", ex.Input(1)), 0.0, ex.Input(1))
    powers = lowering.expression(
        ex.apply("exp", ex.apply("sub", ex.Input(0), shift)), x, largest, dtype=dtype
    )
    total = reduce(lowering, "sum", powers, axes, keepdim=True)
    result = lowering.expression(
        ex.apply("add", ex.apply("log", ex.Input(0)), shift), total, largest, dtype=dtype
    )
    return lowering.reshape(result, reduced_shape(x.shape, axes, keepdim))


@rule("aten.cosine_similarity.default")
def lower_cosine_similarity(
    lowering: Lowering, x1: Tensor, x2: Tensor, dim: int, eps: float
) -> Tensor:
    """sum(x1 * x2) / (max(|x1|, eps) * max(|x2|, eps)) over one axis of the broadcast shape."""
    dtype = lowering.output_type.dtype
    axis = normalize_axis(dim, max(x1.rank, x2.rank))

    def total(a: Tensor, b: Tensor) -> Tensor:
        products = lowering.pointwise("mul", a, b, dtype=dtype)
        return reduce(lowering, "sum", products, (axis,))

    if x1.rank != x2.rank or x1.shape[axis] != x2.shape[axis]:
        raise Unsupported("operands of different length along the axis")
    squares = [total(x, x) for x in (x1, x2)]
    lengths = [
        ex.apply("max", ex.apply("sqrt", ex.Input(index)), float(eps)) for index in (1, 2)
    ]
    similarity = ex.apply("div", ex.Input(0), ex.apply("mul", *lengths))
    return lowering.expression(similarity, total(x1, x2), *squares)


def _correction(correction: float | None) -> float:
    return 1.0 if correction is None else float(correction)


def _var_mean(
    lowering: Lowering, x: Tensor, dim: Axes, correction: float, keepdim: bool
) -> list[Tensor]:
    """[variance, mean] over the axes."""
    axes = reduction_axes(dim, x.rank)
    count = product(tuple(x.shape[axis] for axis in axes))
    if correction and not isinstance(count, int):
        raise Unsupported(f"variance with correction {correction} over a symbolic count {count}")
    mean = reduce(lowering, "mean", x, axes, keepdim=True)
    squares = lowering.expression(
        ex.apply("square", ex.apply("sub", ex.Input(0), ex.Input(1))), x, mean, dtype=x.dtype
    )
    variance = reduce(lowering, "mean", squares, axes, keepdim)
    if correction:
        assert isinstance(count, int)
        factor = count / (count - correction) if count > correction else math.inf
        variance = lowering.pointwise("mul", variance, factor, dtype=x.dtype)
    return [variance, lowering.reshape(mean, reduced_shape(x.shape, axes, keepdim))]


def _root(lowering: Lowering, variance: Tensor) -> Tensor:
    return lowering.pointwise("sqrt", variance, dtype=variance.dtype)


def _norm(lowering: Lowering, x: Tensor, order: float, dim: Axes, keepdim: bool) -> Tensor:
    """The vector norm in the node's dtype."""
    dtype = lowering.output_type.dtype
    x = lowering.cast(x, dtype)
    axes = reduction_axes(dim, x.rank)
    if order == 0:
        mask = lowering.pointwise("ne", x, 0, dtype=DType.BOOL)
        return reduce(lowering, "sum", lowering.cast(mask, dtype), axes, keepdim)
    if math.isinf(order):
        sizes = lowering.pointwise("abs", x)
        return reduce(lowering, "max" if order > 0 else "min", sizes, axes, keepdim)
    if order == 2:
        total = reduce(lowering, "sum", lowering.pointwise("square", x), axes, keepdim)
        return lowering.pointwise("sqrt", total)
    size = ex.apply("abs", ex.Input(0))
    if order == 1:
        return reduce(lowering, "sum", lowering.expression(size, x), axes, keepdim)
    powers = lowering.expression(ex.apply("pow", size, float(order)), x)
    return lowering.pointwise("pow", reduce(lowering, "sum", powers, axes, keepdim), 1 / order)
