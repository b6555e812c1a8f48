"""The scale of a result stored in 8 bits goes into the constants before it."""

from __future__ import annotations

from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject
from torch2rt.passes.expressions.requantize import with_scale_inside

_Match = tuple[Layer, ex.Expression]


class ScaleInsideRequantize(Fusion[_Match]):
    """Requantization costs a rounding alone where bias and scales take its factor.

    Before: %y = convolution(%x, @w, @s, @b)
                 epilogue to_int8(clamp(round(mul(relu(add(mul(i0,i1),i2)),8.0)),-128.0,127.0))
    After:  %y = convolution(%x, @w, @s8, @b8)
                 epilogue to_int8(clamp(round(relu(add(mul(i0,i1),i2))),-128.0,127.0))
    Fires where a positive factor passes through everything between it and constants, and on
    bounds of the expression that the 8 bits have too.
    Refuses never: other expressions do not match.
    """

    name: ClassVar[str] = "scale_inside_requantize"
    equation: ClassVar[str] = "c relu(s x + b) = relu(c s x + c b) for c > 0"
    priority: ClassVar[int] = 17

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """An expression that changes."""
        if isinstance(layer.kind, Pointwise):
            old, first = layer.kind.expression, 0
        elif layer.epilogue is not None:
            old, first = layer.epilogue, len(layer.main_inputs) - 1
        else:
            return None
        operands = layer.inputs[first:]
        known = {
            index for index, tensor in enumerate(operands)
            if tensor.is_constant and (index or not first) and tensor.dtype.is_float
        }
        new = with_scale_inside(old, known)
        return None if new == old else (layer, new)

    def check(self, network: Network, match: _Match) -> Reject | None:
        """Nothing to refuse."""
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Exchange the expression."""
        layer, new = match
        if isinstance(layer.kind, Pointwise):
            kind = Pointwise(new, layer.kind.dtype)
            return replace_layer(network, layer, kind, layer.inputs)
        network.set_epilogue(layer, new, layer.epilogue_inputs)
        return layer
