"""Matmuls of one input become one matmul: query, key and value of an attention layer."""

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
from torch2rt.layers.matmul import Matmul
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_MAX_CHANNELS = 512


class MergeSiblingMatmuls(Fusion[Siblings]):
    """Stack the output channels of linear layers that read the same tensor.

    Before: %q = matmul(%x, @wq[k,c], @bq[k])   %k = matmul(%x, @wk[k,c], @bk[k])   and %v
    After:  %qkv = matmul(%x, @w[3k,c], @b[3k])   %q = slice(%qkv)   %k = slice(%qkv)   and %v
    Fires on weights of two axes with equal flags and epilogue expressions.
    Refuses epilogues that read anything but constants per channel, results that are network
    outputs, and on a CPU matmuls of 512 channels and more: they fill the machine by themselves,
    and what reads the slices would have to copy them.
    """

    name: ClassVar[str] = "merge_sibling_matmuls"
    equation: ClassVar[str] = "cat(x wa, x wb) = x cat(wa, wb)"
    priority: ClassVar[int] = 80

    def __init__(self, max_channels: int | None = _MAX_CHANNELS) -> None:
        self._max_channels = max_channels

    @classmethod
    def for_target(cls, target: str) -> Self:
        """On a GPU of any size: launches cost more, and slices are read in place."""
        return cls(None if target == "cuda" else _MAX_CHANNELS)

    def match(self, network: Network, layer: Layer) -> Siblings | None:
        """The first of several matmuls of one tensor with constant matrices."""
        weight = stackable_weight(layer)
        if not isinstance(layer.kind, Matmul) or weight is None or layer.kind.transpose_a:
            return None
        found = siblings_of(network, layer)
        if found is None:
            return None
        same = tuple(item for item in found.layers if item.inputs[1].rank == 2)
        return Siblings(same) if len(same) > 1 and same[0] is layer else None

    def check(self, network: Network, match: Siblings) -> Reject | None:
        """Small, and epilogues that stack."""
        for layer in match.layers:
            channels = output_channels(layer) or 0
            if self._max_channels is not None and channels >= self._max_channels:
                return Reject(f"{layer.name} has {channels} channels", layer.name)
        return refusal(network, match)

    def rewrite(self, network: Network, match: Siblings) -> Layer:
        """One matmul and slices of it."""
        kind = match.layers[0].kind
        assert isinstance(kind, Matmul)
        axis = 0 if kind.transpose_b else 1
        weights = [values_of(layer.inputs[1]) for layer in match.layers]
        return merge(network, match, np.concatenate(weights, axis))
