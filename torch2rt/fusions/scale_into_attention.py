"""Attention scales its scores, so that nobody has to scale its query or key."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from torch2rt.fusions.affine import affine_of
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused
from torch2rt.layers.attention import Attention
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class ScaledOperand:
    """Input ``index`` of an attention layer is ``x * factor``; None if that is no one number."""

    attention: Layer
    pointwise: Layer
    index: int
    x: Tensor
    factor: float | None


class ScaleIntoAttention(Fusion[ScaledOperand]):
    """A factor of the query or of the key becomes one of the scores.

    Before: %s = pointwise(%q) mul(i0,0.125)   %y = attention(%s, %k, %v) {"scale": 1.0}
    After:  %y = attention(%q, %k, %v) {"scale": 0.125}
    Fires for one constant number, whoever else reads the scaled tensor.
    Refuses factors that vary, a shift, and a change of shape or dtype.
    """

    name: ClassVar[str] = "scale_into_attention"
    equation: ClassVar[str] = "attention(c q, k, v) = attention(q, k, v) with scores times c"
    priority: ClassVar[int] = 61

    def match(self, network: Network, layer: Layer) -> ScaledOperand | None:
        """An attention layer with a scaled query or key."""
        if not isinstance(layer.kind, Attention):
            return None
        for index in range(2):
            producer = layer.inputs[index].producer
            affine = affine_of(producer) if producer is not None else None
            if producer is None or affine is None:
                continue
            is_factor = affine.scale.size == 1 and not affine.shift.any()
            factor = float(affine.scale.item()) if is_factor else None
            return ScaledOperand(layer, producer, index, affine.x, factor)
        return None

    def check(self, network: Network, match: ScaledOperand) -> Reject | None:
        """One finite number, and the same type before and after."""
        if match.factor is None or not math.isfinite(match.factor):
            return Reject("it is not scaled by one finite number", match.pointwise.name)
        before, after = match.x.type, match.pointwise.output.type
        if before != after:
            return Reject(f"it changes {before} to {after}", match.pointwise.name)
        return None

    def rewrite(self, network: Network, match: ScaledOperand) -> Layer:
        """Read what was scaled."""
        layer, kind = match.attention, match.attention.kind
        assert isinstance(kind, Attention)
        assert match.factor is not None
        inputs = list(layer.inputs)
        inputs[match.index] = match.x
        network.set_kind(layer, dataclasses.replace(kind, scale=kind.scale * match.factor))
        network.set_inputs(layer, tuple(inputs))
        network.set_origins(layer, merged_origins(match.pointwise, layer))
        remove_if_unused(network, match.pointwise)
        return layer
