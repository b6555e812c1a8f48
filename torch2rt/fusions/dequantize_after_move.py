"""Layers that only move values move the few bits they are stored in."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.quantized import dequantized, encoding_of
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused, rename
from torch2rt.layers.concat import Concat
from torch2rt.layers.pad import Pad
from torch2rt.layers.pool import Pool
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.resize import Resize
from torch2rt.layers.roll import Roll
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer, LayerKind
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_Match = tuple[Layer, tuple[Layer, ...]]


class DequantizeAfterMove(Fusion[_Match]):
    """Dequantize what a concat, pooling, reshape, slice or transpose gives, not what it takes.

    Before: %a = dequantize(%p, @s)  %b = dequantize(%q, @s)
            %y = concat(%a, %b)
    After:  %c = concat(%p, %q)
            %y = dequantize(%c, @s)
    Fires on layers that select values, maxima included: of a scale above 0 the largest stays the
    largest. A pad with 0 pads with the zero point.
    Refuses operands that are stored differently, and scales that vary within a tensor.
    """

    name: ClassVar[str] = "dequantize_after_move"
    equation: ClassVar[str] = "move(s (q - z)) = s (move(q) - z)"
    priority: ClassVar[int] = 6

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A layer that moves dequantized tensors."""
        if not moves_values(layer):
            return None
        producers = [dequantized(tensor) for tensor in layer.inputs]
        found = tuple(producer for producer in producers if producer is not None)
        return (layer, found) if found and len(found) == len(producers) else None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """All operands are stored alike."""
        layer, producers = match
        encodings = [encoding_of(producer) for producer in producers]
        first = encodings[0]
        if first is None or not first.is_per_tensor or first.scale.item() <= 0:
            return Reject("the scale is not one positive constant", layer.name)
        are_alike = all(
            other is not None and first.equals(other) and producer.kind == producers[0].kind
            and producer.inputs[0].dtype is producers[0].inputs[0].dtype
            for other, producer in zip(encodings, producers, strict=True)
        )
        return None if are_alike else Reject("its operands are stored differently", layer.name)

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """The same layer on the stored tensors, and one dequantize layer."""
        layer, producers = match
        stored = [producer.inputs[0] for producer in producers]
        moved = network.add(
            _kind_of_stored(layer, producers[0]), stored, before=layer, name=layer.name,
            origins=merged_origins(*producers, layer),
        )
        result = network.add(
            producers[0].kind, (moved.output, *producers[0].inputs[1:]), before=layer,
            name=f"{layer.name}.dequantized", origins=layer.origins,
        )
        network.replace(layer.output, result.output)
        name = layer.name
        network.remove(layer)
        rename(network, moved, name)
        for producer in dict.fromkeys(producers):
            remove_if_unused(network, producer)
        return moved


def moves_values(layer: Layer) -> bool:
    """Whether each element of its result is one of its inputs, or 0 from a padding."""
    if layer.epilogue is not None:
        return False
    match layer.kind:
        case Pool(mode=mode):
            return mode == "max"
        case Resize(mode=mode):
            return mode.startswith("nearest")
        case Pad(mode=mode, value=value):
            return mode != "constant" or value == 0
    return isinstance(layer.kind, Concat | Reshape | Roll | Slice | Transpose)


def _kind_of_stored(layer: Layer, producer: Layer) -> LayerKind:
    encoding = encoding_of(producer)
    assert encoding is not None
    if isinstance(layer.kind, Pad) and layer.kind.mode == "constant":
        zero = int(encoding.zero_point.item())
        return Pad(layer.kind.before, layer.kind.after, "constant", zero)
    return layer.kind
