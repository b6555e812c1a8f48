"""Pointwise layers: simpler expressions, fewer operands."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.operands import Bound, NewConstant, joined, simplified
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.shapes import broadcast
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Shape, Tensor
from torch2rt.passes.base import Reject
from torch2rt.passes.expressions.simplify import without_final_cast


class SimplifyPointwise(Fusion[tuple[Layer, Bound]]):
    """Rewrite a pointwise layer's expression by algebra.

    Before: %y = pointwise(%x, @one[1], @s1[c,1,1], @s2[c,1,1]) mul(mul(add(i0,i1),i2),i3)
    After:  %y = pointwise(%x, @s[c,1,1], @t[c,1,1]) add(mul(i0,i1),i2)
    Fires when the expression or its operands change: scalar constants become literals, constants
    are folded, activations spelled out get their names, unused and repeated operands go.
    Refuses never; an operand that only gives the shape stays, unread, at the end.
    """

    name: ClassVar[str] = "simplify_pointwise"
    equation: ClassVar[str] = "f(x, constants) = g(x)"
    priority: ClassVar[int] = 16

    def match(self, network: Network, layer: Layer) -> tuple[Layer, Bound] | None:
        """A pointwise layer whose simplified form differs."""
        if not isinstance(layer.kind, Pointwise):
            return None
        old = layer.kind.expression
        new = simplified(Bound(old, layer.inputs))
        new = joined(without_final_cast(new.expression, layer.kind.dtype), new.operands)
        if broadcast(*(_shape(item) for item in new.operands)) != layer.output.shape:
            unread = [tensor for tensor in layer.inputs if tensor not in new.operands]
            new = Bound(new.expression, (*new.operands, *unread))
        if new.expression == old and new.operands == layer.inputs:
            return None
        return layer, new

    def check(self, network: Network, match: tuple[Layer, Bound]) -> Reject | None:
        """Nothing to refuse."""
        return None

    def rewrite(self, network: Network, match: tuple[Layer, Bound]) -> Layer:
        """Replace the layer."""
        layer, new = match
        assert isinstance(layer.kind, Pointwise)
        kind = Pointwise(new.expression, layer.kind.dtype)
        return replace_layer(network, layer, kind, new.tensors(network, layer))


def _shape(item: Tensor | NewConstant) -> Shape:
    return item.shape if isinstance(item, Tensor) else tuple(item.values.shape)
