"""A slice that lies inside one part of a concat reads that part."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused
from torch2rt.layers.concat import Concat
from torch2rt.layers.slice import Slice
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_Match = tuple[Layer, Tensor, int]


class SliceOfConcat(Fusion[_Match]):
    """Slice the part instead of the whole.

    Before: %c = concat(%x[1,8], %y[1,4]) {"axis": 1}
            %s = slice(%c) {"starts": [0,8], "sizes": [1,4], "steps": [1,1]}
    After:  %s = slice(%y) {"starts": [0,0], "sizes": [1,4], "steps": [1,1]}
    and a slice of all of %y is %y, see `RemoveIdentity`.
    Fires whoever else reads the concat. Needs known sizes along the axis up to that part.
    Refuses a part of another dtype than the concat's.
    """

    name: ClassVar[str] = "slice_of_concat"
    equation: ClassVar[str] = "cat(x, y)[len(x):] = y"
    priority: ClassVar[int] = 33

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A slice of a concat, the part it reads, and where that part starts."""
        concat = layer.inputs[0].producer if isinstance(layer.kind, Slice) else None
        if concat is None or not isinstance(concat.kind, Concat):
            return None
        found = _part_at(layer, concat)
        return None if found is None else (layer, *found)

    def check(self, network: Network, match: _Match) -> Reject | None:
        """The dtype stays."""
        layer, part, _ = match
        if part.dtype != layer.output.dtype:
            return Reject(f"{part.name} is {part.dtype.value}", layer.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Slice the part."""
        layer, part, offset = match
        concat = layer.inputs[0].producer
        assert isinstance(layer.kind, Slice)
        assert concat is not None
        assert isinstance(concat.kind, Concat)
        starts = list(layer.kind.starts)
        starts[concat.kind.axis] = starts[concat.kind.axis] - offset
        network.set_origins(layer, merged_origins(concat, layer))
        network.set_kind(layer, dataclasses.replace(layer.kind, starts=tuple(starts)))
        network.set_inputs(layer, (part,))
        remove_if_unused(network, concat)
        return layer


def _part_at(layer: Layer, concat: Layer) -> tuple[Tensor, int] | None:
    """The part that holds all the slice reads, and where it starts."""
    assert isinstance(layer.kind, Slice)
    assert isinstance(concat.kind, Concat)
    axis = concat.kind.axis
    start, size, step = layer.kind.starts[axis], layer.kind.sizes[axis], layer.kind.steps[axis]
    if not isinstance(start, int) or not isinstance(size, int) or step < 1 or size < 1:
        return None
    last = start + (size - 1) * step
    offset = 0
    for part in concat.inputs:
        length = part.shape[axis]
        if not isinstance(length, int):
            return None
        if offset <= start and last < offset + length:
            return part, offset
        offset += length
    return None
