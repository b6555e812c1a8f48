"""Which tensors are stored alike, and which layers decide how: what binds precisions together.

A tensor has 8 bits if a layer of 8 bits reads it, as its input or to add it to its result. Tensors
between which values only move (pooling, concat, reshape, ...) have one store:

    %a = convolution(...)  %b = convolution(...)  %c = concat(%a, %b)     one store of a, b and c
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch2rt.fusions.dequantize_after_move import moves_values
from torch2rt.layers.plugin import Plugin
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.quantize.float8 import operands_of
from torch2rt.quantize.mix import residuals


@dataclass
class Store:
    """Tensors that are stored alike; ``readers`` and ``adders`` are layers that can have 8 bits.

    Readers take them as their input (plugins, as any of theirs; attention, as query, key or value),
    adders add them to their result.
    """

    tensors: list[Tensor] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    adders: list[str] = field(default_factory=list)

    def is_int8(self, chosen: Collection[str]) -> bool:
        """Whether they have 8 bits when these layers do."""
        return any(name in chosen for name in (*self.readers, *self.adders))

    def is_converted(self, chosen: Collection[str]) -> bool:
        """Whether a layer reads them as floats though they have 8 bits."""
        return self.is_int8(chosen) and any(name not in chosen for name in self.readers)


def stores_of(network: Network, names: Collection[str]) -> dict[str, Store]:
    """The store of every float32 tensor by name; ``names`` are layers that can have 8 bits."""
    stores: dict[str, Store] = {}
    produced = [output for layer in network.layers for output in layer.outputs]
    for tensor in (*network.inputs.values(), *produced):
        if tensor.dtype is DType.FLOAT32 and tensor.name not in stores:
            store = Store()
            _gather(tensor, store, stores)
    for layer in network.layers:
        if layer.name not in names:
            continue
        is_plugin = isinstance(layer.kind, Plugin)
        for tensor in layer.inputs if is_plugin else operands_of(layer):
            read = stores.get(tensor.name)
            if read is not None and layer.name not in read.readers:
                read.readers.append(layer.name)
        for tensor in residuals(layer):
            if tensor.name in stores:
                stores[tensor.name].adders.append(layer.name)
    return stores


def _gather(start: Tensor, store: Store, stores: dict[str, Store]) -> None:
    waiting = [start]
    while waiting:
        tensor = waiting.pop()
        if tensor.name in stores or tensor.is_constant:
            continue
        stores[tensor.name] = store
        store.tensors.append(tensor)
        layers = [*tensor.users, *([tensor.producer] if tensor.producer is not None else [])]
        for layer in layers:
            if moves_values(layer):
                waiting += [*layer.inputs, *layer.outputs]
