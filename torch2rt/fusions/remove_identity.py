"""Layers that change nothing go away."""

from __future__ import annotations

from typing import ClassVar

from torch2rt import expression as ex
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_by
from torch2rt.layers.concat import Concat
from torch2rt.layers.expand import Expand
from torch2rt.layers.pad import Pad
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


class RemoveIdentity(Fusion[Layer]):
    """Take out a layer whose result is its first input.

    Before: %y = reshape(%x[2,8]) {"shape": [2,8]}     and all that read %y
    After:  the readers of %y read %x
    Fires on a reshape or expand to the same shape, a transpose that keeps the order, a concat or
    slice of the whole, a pad of nothing and the pointwise expression ``i0``, all of one dtype.
    Refuses nothing: layers with an epilogue do not match.
    """

    name: ClassVar[str] = "remove_identity"
    equation: ClassVar[str] = "id(x) = x"
    priority: ClassVar[int] = 10

    def match(self, network: Network, layer: Layer) -> Layer | None:
        """A layer without effect."""
        if not layer.inputs or layer.epilogue is not None or len(layer.outputs) != 1:
            return None
        if layer.inputs[0].type != layer.output.type:
            return None
        return layer if _is_identity(layer) else None

    def check(self, network: Network, match: Layer) -> Reject | None:
        """Nothing to refuse."""
        return None

    def rewrite(self, network: Network, match: Layer) -> Layer:
        """Let the readers read the input."""
        replace_by(network, match, match.inputs[0])
        return match


def _is_identity(layer: Layer) -> bool:
    """Whether a layer whose types agree hands its first input on."""
    match layer.kind:
        case Reshape() | Expand():
            return True
        case Pointwise(expression=expression):
            return expression == ex.Input(0)
        case Concat():
            return len(layer.inputs) == 1
        case Slice(starts=starts, steps=steps):
            return not any(starts) and set(steps) <= {1}
        case Pad(before=before, after=after):
            return not any((*before, *after))
        case Transpose(permutation=permutation):
            return permutation == tuple(range(len(permutation)))
    return False
