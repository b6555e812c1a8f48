"""Explicit padding becomes the padding of the window operation that follows."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import replace_layer
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.pad import Pad
from torch2rt.layers.pool import Pool
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Layer]


class PadIntoWindow(Fusion[_Match]):
    """A convolution or pooling pads by itself.

    Before: %p = pad(%x) {"before": [0,0,0,0], "after": [0,0,1,1]}
            %y = convolution(%p, @w) {"padding_before": [0,0], "padding_after": [0,0]}
    After:  %y = convolution(%x, @w) {"padding_before": [0,0], "padding_after": [1,1]}
    Fires on constant padding of spatial axes by known sizes: zeros before a convolution or a mean
    pooling that counts them (or has no padding of its own), -inf before a max pooling.
    Refuses other values and modes, padded batch or channels, and windows inside the padding.
    """

    name: ClassVar[str] = "pad_into_window"
    equation: ClassVar[str] = "window(pad(x)) = window(x, padding)"
    priority: ClassVar[int] = 30

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A window operation after a pad."""
        if not isinstance(layer.kind, Convolution | Pool):
            return None
        producer = layer.inputs[0].producer
        if producer is None or not isinstance(producer.kind, Pad):
            return None
        return producer, layer

    def check(self, network: Network, match: _Match) -> Reject | None:
        """The padding is what the operation pads with, where it pads."""
        pad, layer = match
        assert isinstance(pad.kind, Pad)
        counts = (*pad.kind.before, *pad.kind.after)
        if pad.kind.mode != "constant" or pad.kind.value != _neutral(layer):
            return Reject(f"it pads with {pad.kind.mode} {pad.kind.value}", pad.name)
        if not all(isinstance(count, int) for count in counts):
            return Reject("its sizes are symbolic", pad.name)
        if any((*pad.kind.before[:2], *pad.kind.after[:2])):
            return Reject("it pads the batch or the channels", pad.name)
        return _check_pool(pad, layer) if isinstance(layer.kind, Pool) else None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Add the padding up."""
        pad, layer = match
        return replace_layer(
            network, layer, _padded(pad, layer), (*pad.inputs, *layer.inputs[1:]),
            absorbed=(pad,), epilogue=layer.epilogue,
        )


def _neutral(layer: Layer) -> float:
    is_max = isinstance(layer.kind, Pool) and layer.kind.mode == "max"
    return -math.inf if is_max else 0.0


def _check_pool(pad: Layer, layer: Layer) -> Reject | None:
    assert isinstance(layer.kind, Pool)
    kind = layer.kind
    has_padding = any((*kind.padding_before, *kind.padding_after))
    if kind.mode == "mean" and has_padding and not kind.count_padding:
        return Reject("the mean does not count its own padding", pad.name)
    padded = _padded(pad, layer)
    assert isinstance(padded, Pool)
    for axis, size in enumerate(kind.kernel):
        reach = (size - 1) * kind.dilation[axis] + 1
        if max(padded.padding_before[axis], padded.padding_after[axis]) >= reach:
            return Reject("a window would lie inside the padding", pad.name)
    return None


def _padded(pad: Layer, layer: Layer) -> Convolution | Pool:
    assert isinstance(pad.kind, Pad)
    assert isinstance(layer.kind, Convolution | Pool)
    before = zip(layer.kind.padding_before, pad.kind.before[2:], strict=True)
    after = zip(layer.kind.padding_after, pad.kind.after[2:], strict=True)
    kind = dataclasses.replace(
        layer.kind,
        padding_before=tuple(own + int(more) for own, more in before),
        padding_after=tuple(own + int(more) for own, more in after),
    )
    if isinstance(kind, Pool) and kind.mode == "mean":
        return dataclasses.replace(kind, count_padding=True)
    return kind
