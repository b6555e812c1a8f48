"""A mask that hides nothing goes away."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import values_of
from torch2rt.layers.attention import Attention
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_MASK = 3


class RemoveAttentionMask(Fusion[Layer]):
    """An attention layer loses a constant mask that hides and adds nothing.

    Before: constant @m: bool[1,1,8,8], all true
            %y = attention(%q, %k, %v, @m) {"has_mask": true}
    After:  %y = attention(%q, %k, %v)
    Fires on a bool mask that is true everywhere and a float mask of zeros.
    Refuses masks that hide a key or add a number.
    """

    name: ClassVar[str] = "remove_attention_mask"
    equation: ClassVar[str] = "attention(q, k, v, 0) = attention(q, k, v)"
    priority: ClassVar[int] = 34

    def match(self, network: Network, layer: Layer) -> Layer | None:
        """An attention layer with a constant mask."""
        is_masked = isinstance(layer.kind, Attention) and layer.kind.has_mask
        return layer if is_masked and layer.inputs[_MASK].is_constant else None

    def check(self, network: Network, match: Layer) -> Reject | None:
        """The mask does nothing."""
        mask = match.inputs[_MASK]
        return None if _does_nothing(mask) else Reject(f"{mask.name} hides keys", match.name)

    def rewrite(self, network: Network, match: Layer) -> Layer:
        """Read the mask no more."""
        assert isinstance(match.kind, Attention)
        network.set_kind(match, dataclasses.replace(match.kind, has_mask=False))
        network.set_inputs(match, (*match.inputs[:_MASK], *match.inputs[_MASK + 1 :]))
        return match


def _does_nothing(mask: Tensor) -> bool:
    """Whether a mask is true everywhere, or adds zero everywhere."""
    if mask.dtype is DType.BOOL:
        return mask.data is not None and bool(np.all(mask.data))
    return mask.dtype.is_float and not np.any(values_of(mask))
