"""Chains of pointwise layers become one."""

from __future__ import annotations

from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.operands import MAX_INPUTS, MAX_SIZE, Bound, joined
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject
from torch2rt.passes.expressions.dtypes import cast_between, natural_dtype, operand

_Pair = tuple[Layer, Layer]


class FusePointwiseChain(Fusion[_Pair]):
    """A pointwise layer takes over the pointwise layer before it.

    Before: %a = pointwise(%x, %b) add(i0,i1)
            %y = pointwise(%a, %c) mul(relu(i0),i1)
    After:  %y = pointwise(%x, %b, %c) mul(relu(add(i0,i1)),i2)
    Fires when the second alone reads the first's result and both results have one shape. Where the
    first's dtype is not what its expression gives, the cast goes into the expression.
    Refuses when the first's result has other readers, is a network output or is broadcast (it
    would be computed once per element), or when the expression would grow too large.
    """

    name: ClassVar[str] = "fuse_pointwise_chain"
    equation: ClassVar[str] = "g(f(x, b), c) = (g o f)(x, b, c)"
    priority: ClassVar[int] = 50

    def match(self, network: Network, layer: Layer) -> _Pair | None:
        """A pointwise layer after another; the first that may fuse, else the first."""
        if not isinstance(layer.kind, Pointwise):
            return None
        producers = [
            tensor.producer for tensor in dict.fromkeys(layer.inputs)
            if tensor.producer is not None and isinstance(tensor.producer.kind, Pointwise)
        ]
        if not producers:
            return None
        possible = [p for p in producers if self.check(network, (p, layer)) is None]
        return (possible or producers)[0], layer

    def check(self, network: Network, match: _Pair) -> Reject | None:
        """One reader, one shape, one dtype in the end, and a bounded expression."""
        first, second = match
        result = first.output
        if network.only_user(result) is not second:
            return Reject(f"{result.name} has other readers or is a network output", first.name)
        if result.shape != second.output.shape:
            return Reject(f"{result.name} is broadcast to {second.output.type}", first.name)
        fused = _fused(first, second)
        if ex.size(fused.expression) > MAX_SIZE or len(fused.operands) > MAX_INPUTS:
            return Reject(
                f"the expression would have {ex.size(fused.expression)} terms over "
                f"{len(fused.operands)} tensors", first.name,
            )
        if _natural(fused.expression, fused.operands) != _natural(
            second.kind.expression, second.inputs  # type: ignore[attr-defined]
        ):
            return Reject("the dtype would change", first.name)
        return None

    def rewrite(self, network: Network, match: _Pair) -> Layer:
        """One layer in the place of the second."""
        first, second = match
        fused = _fused(first, second)
        kind = Pointwise(fused.expression, second.output.dtype)
        tensors = [item for item in fused.operands if isinstance(item, Tensor)]
        if kind.infer([tensor.type for tensor in tensors])[0].shape != second.output.shape:
            tensors += [tensor for tensor in first.inputs if tensor not in tensors]
        return replace_layer(network, second, kind, tensors, absorbed=(first,))


def _natural(expression: ex.Expression, operands: tuple[object, ...]) -> object:
    types = tuple(operand(item) for item in operands if isinstance(item, Tensor))
    return natural_dtype(expression, types)


def _fused(first: Layer, second: Layer) -> Bound:
    """The two expressions as one."""
    assert isinstance(first.kind, Pointwise)
    assert isinstance(second.kind, Pointwise)
    operands: list[Tensor] = list(first.inputs)
    natural = natural_dtype(first.kind.expression, tuple(operand(t) for t in first.inputs))
    inner = cast_between(first.kind.expression, natural, first.output.dtype)
    replacements: dict[int, ex.Expression] = {}
    for index, tensor in enumerate(second.inputs):
        if tensor is first.output:
            replacements[index] = inner
        else:
            replacements[index] = ex.Input(len(operands))
            operands.append(tensor)
    expression = ex.substitute_inputs(second.kind.expression, replacements)
    return joined(expression, operands)
