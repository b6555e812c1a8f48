"""Convolutions of one input with one geometry become one convolution."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.contraction import output_channels
from torch2rt.fusions.rewrite import values_of
from torch2rt.fusions.siblings import (
    Siblings,
    merge,
    refusal,
    siblings_of,
    stackable_weight,
)
from torch2rt.layers.concat import Concat
from torch2rt.layers.convolution import Convolution
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_MAX_CHANNELS = 512


class MergeSiblingConvolutions(Fusion[Siblings]):
    """Stack the output channels of convolutions that read the same tensor.

    Before: %a = convolution(%x, @wa[64,c,1,1], @ba)   %b = convolution(%x, @wb[96,c,1,1], @bb)
    After:  %ab = convolution(%x, @w[160,c,1,1], @b)   %a = slice(%ab)   %b = slice(%ab)
    Fires on convolutions of equal stride, padding, dilation, kernel and epilogue expression,
    without groups: GoogLeNet's three 1x1 convolutions of a block are one.
    Refuses epilogues that read anything but constants per channel, results that are network
    outputs, and on a CPU convolutions of 512 channels and more, which fill it by themselves.
    """

    name: ClassVar[str] = "merge_sibling_convolutions"
    equation: ClassVar[str] = "cat(wa x, wb x) = cat(wa, wb) x"
    priority: ClassVar[int] = 80

    def __init__(self, max_channels: int | None = _MAX_CHANNELS) -> None:
        self._max_channels = max_channels

    @classmethod
    def for_target(cls, target: str) -> Self:
        """On a GPU of any size: launches cost more, and slices are read in place."""
        return cls(None if target == "cuda" else _MAX_CHANNELS)

    def match(self, network: Network, layer: Layer) -> Siblings | None:
        """The first of several convolutions of one tensor."""
        if not isinstance(layer.kind, Convolution) or stackable_weight(layer) is None:
            return None
        found = siblings_of(network, layer)
        if found is None:
            return None
        shape = layer.inputs[1].shape[1:]
        same = tuple(item for item in found.layers if item.inputs[1].shape[1:] == shape)
        return Siblings(same) if len(same) > 1 else None

    def check(self, network: Network, match: Siblings) -> Reject | None:
        """No groups, small, and epilogues that stack."""
        first = match.layers[0]
        assert isinstance(first.kind, Convolution)
        if first.kind.groups != 1:
            return Reject("it has groups", first.name)
        for layer in match.layers:
            channels = output_channels(layer) or 0
            if self._max_channels is not None and channels >= self._max_channels:
                return Reject(f"{layer.name} has {channels} channels", layer.name)
        return refusal(network, match)

    def rewrite(self, network: Network, match: Siblings) -> Layer:
        """One convolution and slices of it."""
        if self._max_channels is None:
            match = Siblings(tuple(sorted(match.layers, key=_place_in_row)))
        weight = np.concatenate([values_of(layer.inputs[1]) for layer in match.layers])
        return merge(network, match, weight)


def _place_in_row(layer: Layer) -> int:
    """Last for what begins a concat, first for what ends one, so that they share memory.

    The rows of both tensors then overlap: a a b b c c of the convolution, c c d d of the concat.
    """
    readers = list(layer.output.users)
    if len(readers) != 1 or not isinstance(readers[0].kind, Concat):
        return 0
    parts = readers[0].inputs
    return 1 if parts[0] is layer.output else -1 if parts[-1] is layer.output else 0
