"""Rules of activations that are an expression of their own: each one pointwise layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch2rt import expression as ex
from torch2rt.layers.pointwise_rules import Operands
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.layers.slice import slice_axis
from torch2rt.network.dim import floordiv
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def _unary(lowering: Lowering, x: Tensor) -> tuple[Operands, ex.Expression]:
    values = Operands(lowering)
    return values, values.read(x, lowering.output_type.dtype)


@rule("aten.relu6.default")
def lower_relu6(lowering: Lowering, input: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return _clamp(lowering, input, 0, 6)


@rule("aten.hardtanh.default")
def lower_hardtanh(
    lowering: Lowering, input: Tensor, min_val: float, max_val: float
) -> Tensor:
    """min(max(x, low), high)."""
    return _clamp(lowering, input, min_val, max_val)


def _clamp(lowering: Lowering, x: Tensor, low: float, high: float) -> Tensor:
    values, term = _unary(lowering, x)
    dtype = lowering.output_type.dtype
    return values.add_layer(
        ex.apply("clamp", term, values.read(low, dtype), values.read(high, dtype))
    )


@rule("aten.gelu.default")
def lower_gelu(lowering: Lowering, input: Tensor, approximate: str) -> Tensor:
    """Gelu: x * Phi(x), or its tanh approximation."""
    values, x = _unary(lowering, input)
    return values.add_layer(ex.apply("gelu_tanh" if approximate == "tanh" else "gelu", x))


@rule("aten.leaky_relu.default")
def lower_leaky_relu(lowering: Lowering, input: Tensor, negative_slope: float) -> Tensor:
    """The input where positive, slope * x elsewhere."""
    return _leaky_relu(lowering, input, negative_slope)


def _leaky_relu(lowering: Lowering, input: Tensor, slope: float) -> Tensor:
    values, x = _unary(lowering, input)
    return values.add_layer(ex.apply("leaky_relu", x, float(slope)))


@rule("aten.rrelu.default")
def lower_rrelu(
    lowering: Lowering, input: Tensor, lower: float, upper: float, training: bool,
    generator: object,
) -> Tensor:
    """In evaluation: leaky relu with the mean slope."""
    if training:
        raise Unsupported("rrelu in training mode")
    return _leaky_relu(lowering, input, (lower + upper) / 2)


@rule("aten.prelu.default")
def lower_prelu(lowering: Lowering, input: Tensor, weight: Tensor) -> Tensor:
    """The input where positive, weight * x elsewhere; one weight, or one per channel."""
    if weight.type.element_count == 1:
        slope = lowering.reshape(weight, ())
    elif input.rank < 2:
        slope = weight
    else:
        slope = lowering.reshape(weight, (-1,) + (1,) * (input.rank - 2))
    values, x = _unary(lowering, input)
    scaled = ex.apply("mul", x, values.read(slope))
    return values.add_layer(ex.apply("where", ex.apply("gt", x, 0.0), x, scaled))


@rule("aten.elu.default")
def lower_elu(
    lowering: Lowering, input: Tensor, alpha: float, scale: float, input_scale: float
) -> Tensor:
    """Scale * x where positive, scale * alpha * (exp(input_scale * x) - 1) elsewhere."""
    return _elu(lowering, input, alpha, scale, input_scale)


def _elu(
    lowering: Lowering, input: Tensor, alpha: float, scale: float, input_scale: float
) -> Tensor:
    values, x = _unary(lowering, input)
    if input_scale == 1:
        result = ex.apply("elu", x, float(alpha))
    else:
        grown = ex.apply("expm1", ex.apply("mul", x, float(input_scale)))
        result = ex.apply("where", ex.apply("gt", x, 0.0), x,
                          ex.apply("mul", grown, float(alpha)))
    return values.add_layer(result if scale == 1 else ex.apply("mul", result, float(scale)))


@rule("aten.selu.default")
def lower_selu(lowering: Lowering, input: Tensor) -> Tensor:
    """Elu with the self-normalising constants."""
    return _elu(lowering, input, _SELU_ALPHA, _SELU_SCALE, 1)


@rule("aten.celu.default")
def lower_celu(lowering: Lowering, input: Tensor, alpha: float) -> Tensor:
    """The input where positive, alpha * (exp(x / alpha) - 1) elsewhere."""
    return _elu(lowering, input, alpha, 1, 1 / alpha)


@rule("aten.softplus.default")
def lower_softplus(
    lowering: Lowering, input: Tensor, beta: float, threshold: float
) -> Tensor:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x exceeds the threshold."""
    values, x = _unary(lowering, input)
    scaled = x if beta == 1 else ex.apply("mul", x, float(beta))
    if threshold == 20:  # the op's own
        soft = ex.apply("softplus", scaled)
        return values.add_layer(soft if beta == 1 else ex.apply("div", soft, float(beta)))
    soft = ex.apply("div", ex.apply("log1p", ex.apply("exp", scaled)), float(beta))
    is_large = ex.apply("gt", scaled, float(threshold))
    return values.add_layer(ex.apply("where", is_large, x, soft))


@rule("aten.log_sigmoid.default")
def lower_log_sigmoid(lowering: Lowering, input: Tensor) -> Tensor:
    """min(x, 0) - log1p(exp(-|x|)), which cannot overflow."""
    values, x = _unary(lowering, input)
    decay = ex.apply("exp", ex.apply("neg", ex.apply("abs", x)))
    return values.add_layer(
        ex.apply("sub", ex.apply("min", x, 0.0), ex.apply("log1p", decay))
    )


@rule("aten.threshold.default")
def lower_threshold(
    lowering: Lowering, input: Tensor, threshold: float, value: float
) -> Tensor:
    """The input where above the threshold, the value elsewhere."""
    values, x = _unary(lowering, input)
    dtype = lowering.output_type.dtype
    is_small = ex.apply("le", x, threshold)
    return values.add_layer(ex.apply("where", is_small, values.read(value, dtype), x))


@rule("aten.hardshrink.default")
def lower_hardshrink(lowering: Lowering, input: Tensor, lambd: float) -> Tensor:
    """The input where its magnitude exceeds lambda, 0 elsewhere."""
    values, x = _unary(lowering, input)
    is_small = ex.apply("le", ex.apply("abs", x), float(lambd))
    return values.add_layer(ex.apply("where", is_small, 0.0, x))


@rule("aten.softshrink.default")
def lower_softshrink(lowering: Lowering, input: Tensor, lambd: float) -> Tensor:
    """The input drawn towards 0 by lambda: x - clamp(x, -lambda, lambda)."""
    values, x = _unary(lowering, input)
    return values.add_layer(
        ex.apply("sub", x, ex.apply("clamp", x, -float(lambd), float(lambd)))
    )


@rule("aten.logit.default")
def lower_logit(lowering: Lowering, input: Tensor, eps: float | None) -> Tensor:
    """log(x / (1 - x)), with x clamped to [eps, 1 - eps] if given."""
    values, x = _unary(lowering, input)
    if eps is not None:
        x = ex.apply("clamp", x, float(eps), 1 - float(eps))
    return values.add_layer(ex.apply("log", ex.apply("div", x, ex.apply("sub", 1.0, x))))


@rule("aten.glu.default")
def lower_glu(lowering: Lowering, input: Tensor, dim: int) -> Tensor:
    """The first half of an axis times the sigmoid of the second."""
    axis = normalize_axis(dim, input.rank)
    half = floordiv(input.shape[axis], 2)
    values = Operands(lowering)
    left = values.read(slice_axis(lowering, input, axis, 0, half))
    right = values.read(slice_axis(lowering, input, axis, half, half))
    return values.add_layer(ex.apply("mul", left, ex.apply("sigmoid", right)))
