"""A concat that begins like another one begins with that one's result."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.layers.concat import Concat
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Tensor, int]


class ReuseConcat(Fusion[_Match]):
    """Begin a concat with a concat that exists, so that only the rest needs a place behind it.

    Before: %a = concat(%x, %y) {"axis": 1}   %b = concat(%x, %y, %z) {"axis": 1}
    After:  %a = concat(%x, %y) {"axis": 1}   %b = concat(%a, %z) {"axis": 1}
    Fires when another concat along the same axis joins the first parts and comes earlier. A dense
    block becomes a chain, each result the beginning of the next.
    Refuses when the other concat comes later.
    """

    name: ClassVar[str] = "reuse_concat"
    equation: ClassVar[str] = "cat(x, y, z) = cat(cat(x, y), z)"
    priority: ClassVar[int] = 36

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """The longest beginning that another concat joins already."""
        if not isinstance(layer.kind, Concat):
            return None
        tensor, count = layer.inputs[0], 1
        while (longer := _continued(layer, tensor, count)) is not None:
            tensor, count = longer
        return (layer, tensor, count) if count > 1 else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """The other comes earlier."""
        layer, tensor, _ = match
        assert tensor.producer is not None
        if network.position(tensor.producer) > network.position(layer):
            return Reject(f"{tensor.producer.name} comes later", layer.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Read the other's result."""
        layer, tensor, count = match
        network.set_inputs(layer, (tensor, *layer.inputs[count:]))
        return layer


def _continued(layer: Layer, tensor: Tensor, count: int) -> tuple[Tensor, int] | None:
    """A concat that joins ``tensor`` and the layer's inputs from ``count`` on, but not all."""
    for user in tensor.users:
        length = len(user.inputs) - 1
        if user is layer or user.kind != layer.kind or user.inputs[0] is not tensor:
            continue
        is_same = user.inputs[1:] == layer.inputs[count : count + length]
        has_type = user.output.dtype == layer.output.dtype
        if is_same and has_type and length and count + length < len(layer.inputs):
            return user.output, count + length
    return None
