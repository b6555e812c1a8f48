"""What is true everywhere has no part in an attention mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused
from torch2rt.layers.attention import Attention
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_MASK = 3
_CONJUNCTIONS = frozenset({"bitwise_and(i0,i1)", "logical_and(i0,i1)"})


@dataclass(frozen=True)
class MaskOfTwo:
    """An attention layer whose mask is a constant and another mask."""

    conjunction: Layer
    constant: Tensor
    rest: Tensor
    attention: Layer


class MaskWithoutTrue(Fusion[MaskOfTwo]):
    """An attention layer reads the one mask of two that hides something.

    Before: constant @t: bool[1,1,8,1], all true
            %m = pointwise(@t, %p[s0,1,1,8]) bitwise_and(i0,i1) -> bool[s0,1,8,8]
            %y = attention(%q, %k, %v, %m)
    After:  %y = attention(%q, %k, %v, %p)
    Fires whoever else reads %m. The other mask may be smaller: attention broadcasts it.
    Refuses a constant that is false somewhere.
    """

    name: ClassVar[str] = "mask_without_true"
    equation: ClassVar[str] = "attention(q, k, v, true & m) = attention(q, k, v, m)"
    priority: ClassVar[int] = 32

    def match(self, network: Network, layer: Layer) -> MaskOfTwo | None:
        """An attention layer whose mask is a conjunction of a constant and another."""
        if not isinstance(layer.kind, Attention) or not layer.kind.has_mask:
            return None
        producer = layer.inputs[_MASK].producer
        if producer is None or not isinstance(producer.kind, Pointwise):
            return None
        if producer.kind.expression.text not in _CONJUNCTIONS:
            return None
        first, second = producer.inputs
        if first.dtype is not DType.BOOL or second.dtype is not DType.BOOL:
            return None
        if first.is_constant == second.is_constant:
            return None
        constant, rest = (first, second) if first.is_constant else (second, first)
        return MaskOfTwo(producer, constant, rest, layer)

    def check(self, network: Network, match: MaskOfTwo) -> Reject | None:
        """The constant hides nothing."""
        data = match.constant.data
        if data is not None and bool(np.all(data)):
            return None
        return Reject(f"{match.constant.name} hides keys", match.attention.name)

    def rewrite(self, network: Network, match: MaskOfTwo) -> Layer:
        """Read the other mask."""
        layer = match.attention
        network.set_origins(layer, merged_origins(match.conjunction, layer))
        inputs = (*layer.inputs[:_MASK], match.rest, *layer.inputs[_MASK + 1 :])
        network.set_inputs(layer, inputs)
        remove_if_unused(network, match.conjunction)
        return layer
