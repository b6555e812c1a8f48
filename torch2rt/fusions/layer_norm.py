"""Layer norm and RMS norm spelled out with means and square roots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.operands import joined
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused, replace_layer
from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reduce import Reduce
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_DIFFERENCE = ex.parse_expression("sub(i0,i1)")
_SQUARE = ex.parse_expression("square(i0)")


@dataclass(frozen=True)
class SpelledNorm:
    """The last layer, the product in it that is the normalised value, and what it is made of."""

    last: Layer
    product: ex.Expression
    inner: tuple[Layer, ...]
    x: Tensor
    axis_count: int
    eps: float
    is_centered: bool


class FuseLayerNorm(Fusion[SpelledNorm]):
    """Recognise (x - mean(x)) * rsqrt(mean((x - mean(x))**2) + eps), and x * rsqrt(...) alone.

    A division by the square root is the same.

    Before: %m = reduce(%x) mean   %d = pointwise(%x, %m) sub(i0,i1)   %s = pointwise(%d) square(i0)
            %r = reduce(%s) mean, epilogue rsqrt(add(i0,eps))
            %y = pointwise(%d, %r, @w, @b) add(mul(mul(i0,i1),i2),i3)
    After:  %n = layer_norm(%x) {"eps": eps}   %y = pointwise(%n, @w, @b) add(mul(i0,i1),i2)
    Fires when the means run over the last axes and keep them. Without %m it is an RMS norm.
    Refuses when mean or variance have other readers.
    """

    name: ClassVar[str] = "fuse_layer_norm"
    equation: ClassVar[str] = "(x - mean) * rsqrt(var + eps) = layer_norm(x)"
    priority: ClassVar[int] = 62

    def match(self, network: Network, layer: Layer) -> SpelledNorm | None:
        """A pointwise layer that multiplies by the root of a mean of squares of its operand."""
        if not isinstance(layer.kind, Pointwise):
            return None
        for node in ex.walk(layer.kind.expression):
            match node:
                case ex.Apply("mul" | "div", (ex.Input(a), ex.Input(b))):
                    tensors = layer.inputs
                    found = _norm(layer, node, tensors[a], tensors[b])
                    if found is None and node.op == "mul":
                        found = _norm(layer, node, tensors[b], tensors[a])
                    if found is not None:
                        return found
        return None

    def check(self, network: Network, match: SpelledNorm) -> Reject | None:
        """Only the pattern itself reads mean and variance, and the types agree."""
        within = {match.last, *match.inner}
        for layer in match.inner:
            if network.is_output(layer.output) or not set(layer.output.users) <= within:
                return Reject(f"{layer.output.name} has other readers", layer.name)
        if match.x.type != match.last.output.type:
            return Reject(f"{match.x.type} becomes {match.last.output.type}", match.last.name)
        return None

    def rewrite(self, network: Network, match: SpelledNorm) -> Layer:
        """A layer norm, and what else the last layer did."""
        last = match.last
        assert isinstance(last.kind, Pointwise)
        norm = network.add(
            LayerNorm(match.axis_count, match.eps, match.is_centered), (match.x,), before=last,
            origins=merged_origins(*reversed(match.inner), last),
        )
        operands = (*last.inputs, norm.output)
        expression = _with(last.kind.expression, match.product, ex.Input(len(last.inputs)))
        bound = joined(expression, operands)
        tensors = [item for item in bound.operands if isinstance(item, Tensor)]
        kind = Pointwise(bound.expression, last.kind.dtype)
        replace_layer(network, last, kind, tensors)
        for layer in match.inner:
            remove_if_unused(network, layer)
        return norm


def _norm(last: Layer, node: ex.Apply, value: Tensor, root: Tensor) -> SpelledNorm | None:
    """The pattern with ``value`` normalised by ``root``, or None."""
    reduction = root.producer
    if reduction is None or not _is_mean(reduction):
        return None
    eps = _eps(reduction.epilogue, "rsqrt" if node.op == "mul" else "sqrt")
    squares = reduction.inputs[0].producer
    if eps is None or squares is None or not isinstance(squares.kind, Pointwise):
        return None
    assert isinstance(reduction.kind, Reduce)
    count = len(reduction.kind.axes)
    if squares.kind.expression != _SQUARE or squares.inputs[0] is not value:
        return None
    mean = _mean_of_difference(value, reduction.kind)
    if mean is None:
        return SpelledNorm(last, node, (reduction, squares), value, count, eps, False)
    difference = value.producer
    assert difference is not None
    inner = (reduction, squares, difference, mean)
    return SpelledNorm(last, node, inner, difference.inputs[0], count, eps, True)


def _mean_of_difference(value: Tensor, kind: Reduce) -> Layer | None:
    """The mean over the same axes that was subtracted to give ``value``."""
    difference = value.producer
    if difference is None or not isinstance(difference.kind, Pointwise):
        return None
    if difference.kind.expression != _DIFFERENCE:
        return None
    x, subtracted = difference.inputs
    mean = subtracted.producer
    if mean is None or mean.kind != kind or mean.inputs[0] is not x or mean.epilogue is not None:
        return None
    return mean


def _is_mean(layer: Layer) -> bool:
    """Whether a layer is a mean over the last axes that keeps them."""
    kind = layer.kind
    if not isinstance(kind, Reduce) or kind.mode != "mean" or not kind.keepdim:
        return False
    rank = layer.inputs[0].rank
    return kind.axes == tuple(range(rank - len(kind.axes), rank))


def _eps(epilogue: ex.Expression | None, root: str) -> float | None:
    """The number under the root of a mean of squares."""
    match epilogue:
        case ex.Apply(op, (ex.Apply("add", (ex.Input(0), ex.Constant(eps))),)) if op == root:
            return float(eps)
    return None


def _with(node: ex.Expression, old: ex.Expression, new: ex.Expression) -> ex.Expression:
    """The expression with a node exchanged."""
    if node == old:
        return new
    if isinstance(node, ex.Apply):
        return ex.Apply(node.op, tuple(_with(a, old, new) for a in node.arguments))
    return node
