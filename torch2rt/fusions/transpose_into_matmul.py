"""A matmul reads a transposed operand as it lies in memory."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject

_Match = tuple[Layer, int]
_FLAGS = ("transpose_a", "transpose_b")


class TransposeIntoMatmul(Fusion[_Match]):
    """Exchange the last two axes of an operand by the matmul's own flag.

    Before: %t = transpose(%k[b,s,h,e]) {"permutation": [0,2,3,1]}   %y = matmul(%q, %t)
    After:  %t = transpose(%k) {"permutation": [0,2,1,3]}
            %y = matmul(%q, %t) {"transpose_b": true}
    Fires when the transpose leaves the axis that is contiguous in memory second to last: then the
    matmul can read it in place. A plain exchange of two axes disappears altogether.
    Refuses when something else reads the transpose and it would not disappear.
    """

    name: ClassVar[str] = "transpose_into_matmul"
    equation: ClassVar[str] = "a @ transpose(b) = matmul(a, b, transpose_b)"
    priority: ClassVar[int] = 30

    def match(self, network: Network, layer: Layer) -> _Match | None:
        """A matmul with an operand whose contiguous axis was moved to second to last."""
        if not isinstance(layer.kind, Matmul):
            return None
        for index in (0, 1):
            producer = layer.inputs[index].producer
            if producer is None or not isinstance(producer.kind, Transpose):
                continue
            permutation = producer.kind.permutation
            if permutation[-2] == len(permutation) - 1:
                return layer, index
        return None

    def check(self, network: Network, match: _Match) -> Reject | None:
        """The transpose disappears, or only the matmul reads it."""
        layer, index = match
        tensor = layer.inputs[index]
        permutation = _exchanged(tensor.producer)
        if permutation == tuple(range(len(permutation))):
            return None
        if network.only_user(tensor) is not layer or layer.inputs.count(tensor) > 1:
            return Reject(f"{tensor.name} has other readers", layer.name)
        return None

    def rewrite(self, network: Network, match: _Match) -> Layer:
        """Toggle the flag and exchange the axes back."""
        layer, index = match
        assert isinstance(layer.kind, Matmul)
        producer = layer.inputs[index].producer
        assert producer is not None
        permutation = _exchanged(producer)
        if permutation == tuple(range(len(permutation))):
            network.set_origins(layer, merged_origins(producer, layer))
            inputs = list(layer.inputs)
            inputs[index] = producer.inputs[0]
            network.set_inputs(layer, tuple(inputs))
            remove_if_unused(network, producer)
        else:
            network.set_kind(producer, Transpose(permutation))
            network.set_type(producer.output, producer.kind.infer([producer.inputs[0].type])[0])
        flag = _FLAGS[index]
        kind = dataclasses.replace(layer.kind, **{flag: not getattr(layer.kind, flag)})
        network.set_kind(layer, kind)
        return layer


def _exchanged(producer: Layer | None) -> tuple[int, ...]:
    """The permutation with its last two axes exchanged."""
    assert producer is not None
    assert isinstance(producer.kind, Transpose)
    *batch, rows, columns = producer.kind.permutation
    return (*batch, columns, rows)
