"""Epilogues: simpler expressions, fewer operands, scales next to the accumulator."""

from __future__ import annotations

from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.contraction import weight_of
from torch2rt.fusions.operands import Bound, result_of, simplified
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject
from torch2rt.passes.expressions.simplify import without_final_cast


class SimplifyEpilogue(Fusion[tuple[Layer, Bound]]):
    """Rewrite a layer's epilogue by algebra.

    Before: convolution(...) epilogue relu(add(mul(add(i0,i1),i2),i3))
    After:  convolution(...) epilogue relu(add(mul(i0,i1),i2)) with folded constants
    Fires when the expression or its operands change. On a layer with constant weights a scale
    moves next to ``i0``, where `ScaleIntoWeights` finds it.
    Refuses never: the result's shape does not depend on the epilogue.
    """

    name: ClassVar[str] = "simplify_epilogue"
    equation: ClassVar[str] = "(y + b) * s = y * s + b * s"
    priority: ClassVar[int] = 16

    def match(self, network: Network, layer: Layer) -> tuple[Layer, Bound] | None:
        """An epilogue whose simplified form differs."""
        if layer.epilogue is None:
            return None
        old = Bound(layer.epilogue, (result_of(layer), *layer.epilogue_inputs))
        new = simplified(old, fixed=1, scale_first=weight_of(layer) is not None)
        new = Bound(without_final_cast(new.expression, layer.output.dtype), new.operands)
        return None if new == old else (layer, new)

    def check(self, network: Network, match: tuple[Layer, Bound]) -> Reject | None:
        """Nothing to refuse."""
        return None

    def rewrite(self, network: Network, match: tuple[Layer, Bound]) -> Layer:
        """Exchange the epilogue."""
        layer, new = match
        tensors = new.tensors(network, layer)[1:]
        expression = None if new.expression == ex.Input(0) else new.expression
        network.set_epilogue(layer, expression, tensors)
        return layer
