"""Layers whose inputs are all constant become constants."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch

from torch2rt.fusions.quantized import stored_weight
from torch2rt.layers.aten import Aten
from torch2rt.layers.dequantize import Dequantize
from torch2rt.network.dim import SymbolicDim
from torch2rt.network.layer import Layer, LayerKind
from torch2rt.network.network import Network
from torch2rt.network.tensor import TensorType
from torch2rt.passes.base import Log, Pass
from torch2rt.torch_values import constant_from_torch, constant_to_torch

_MAX_GROWTH_BYTES = 16 << 20


class FoldConstants(Pass):
    """Compute layers of constants once, with their reference.

    Before: %a = transpose(@w[8,4]) {"permutation": [1,0]}
    After:  constant @a: float32[4,8]
    Fires when every input is a constant and the result is no larger than the inputs together or
    16 MiB, so that an expand does not fill the engine file.
    Refuses fallback layers, which may draw random numbers, dequantize layers and int8 weights of
    matmuls made float, which other fusions look for, and sizes that are symbolic.
    """

    name: ClassVar[str] = "fold_constants"

    def run(self, network: Network, log: Log) -> bool:
        """One sweep in topological order."""
        changed = False
        for layer in network.layers:
            if not all(tensor.is_constant for tensor in layer.inputs):
                continue
            reason = _refusal(network, layer)
            if reason is not None:
                log.reject(self.name, layer, reason)
                continue
            _fold(network, layer)
            log.fire(self.name, layer)
            changed = True
        return changed


def _refusal(network: Network, layer: Layer) -> str | None:
    if isinstance(layer.kind, Aten):
        return "it is a fallback layer, which may not give the same result twice"
    if isinstance(layer.kind, Dequantize):
        return "it may be the weight of a quantized layer"
    if stored_weight(network, layer) is not None:
        return "matmuls read the weight as it is stored"
    if _has_symbols(layer.kind) or not all(output.type.is_static for output in layer.outputs):
        return "its sizes are symbolic"
    read = sum(_size_bytes(tensor.type) for tensor in layer.inputs)
    written = sum(_size_bytes(tensor.type) for tensor in layer.outputs)
    if written > max(read, _MAX_GROWTH_BYTES):
        return f"{read} bytes of constants would become {written}"
    return None


def _fold(network: Network, layer: Layer) -> None:
    inputs = [
        constant_to_torch(tensor.data, tensor.dtype)
        for tensor in layer.inputs if tensor.data is not None
    ]
    with torch.no_grad():
        results = layer.reference(inputs)
    folded = []
    for output, result in zip(layer.outputs, results, strict=True):
        data, dtype = constant_from_torch(result)
        constant = network.add_constant(output.name, data, dtype)
        network.replace(output, constant)
        folded.append((constant, output.name))
    network.remove(layer)
    for constant, name in folded:
        network.rename(constant, name)


def _has_symbols(kind: LayerKind) -> bool:
    return any(_is_symbolic(getattr(kind, field.name)) for field in dataclasses.fields(kind))


def _is_symbolic(value: Any) -> bool:
    match value:
        case SymbolicDim():
            return True
        case TensorType():
            return not value.is_static
        case tuple():
            return any(_is_symbolic(item) for item in value)
    return False


def _size_bytes(type: TensorType) -> int:
    count = type.element_count
    assert isinstance(count, int)
    return count * type.dtype.itemsize_bytes
