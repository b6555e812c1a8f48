"""What fusions share: replacing layers, reading constants, naming new ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from torch2rt import expression as ex
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer, LayerKind, Origin
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.network.torch_cast import to_dtype
from torch2rt.torch_values import constant_from_torch, constant_to_torch


def replace_layer(
    network: Network,
    at: Layer,
    kind: LayerKind,
    inputs: Sequence[Tensor],
    *,
    absorbed: Sequence[Layer] = (),
    epilogue: ex.Expression | None = None,
    named_after: Layer | None = None,
) -> Layer:
    """A layer in the place of ``at``, with its output dtypes, that also does what ``absorbed`` did.

    The layers of ``absorbed``, last first, go away too, unless something else reads them. The new
    layer has the origins of all and the name of ``named_after`` (``at`` unless given).
    """
    named = named_after if named_after is not None else at
    name = named.name
    layer = network.add(
        kind, inputs, epilogue=epilogue, before=at, name=name,
        output_dtypes=[output.dtype for output in at.outputs],
        origins=merged_origins(*reversed(absorbed), at),
    )
    for old, new in zip(at.outputs, layer.outputs, strict=True):
        network.replace(old, new)
    for old_layer in (at, *absorbed):
        remove_if_unused(network, old_layer)
    if not named.is_alive:
        rename(network, layer, name)
    return layer


def replace_by(network: Network, layer: Layer, tensor: Tensor) -> None:
    """Let every reader of the layer's only output read ``tensor``, and remove the layer.

    The producer of ``tensor`` takes over the origins.
    """
    network.replace(layer.output, tensor)
    if tensor.producer is not None:
        network.set_origins(tensor.producer, (*tensor.producer.origins, *layer.origins))
    network.remove(layer)


def remove_if_unused(network: Network, layer: Layer) -> None:
    """Remove a layer that nothing reads any more."""
    if layer.is_alive and not any(network.is_used(output) for output in layer.outputs):
        network.remove(layer)


def rename(network: Network, layer: Layer, name: str) -> None:
    """Name a layer and its outputs as if it had been added under that name."""
    network.rename_layer(layer, name)
    for index, output in enumerate(layer.outputs):
        network.rename(output, layer.name if index == 0 else f"{layer.name}:out{index}")


def merged_origins(*layers: Layer) -> tuple[Origin, ...]:
    """Origins of all the layers, each once."""
    return tuple(dict.fromkeys(origin for layer in layers for origin in layer.origins))


def values_of(tensor: Tensor) -> Array:
    """The data of a float constant in float64."""
    if tensor.data is None:
        raise ValueError(f"{tensor.name} is no constant")
    if not tensor.dtype.is_stored_as_bits:
        return tensor.data.astype(np.float64)
    values: Array = constant_to_torch(tensor.data, tensor.dtype).double().numpy()
    return values


def add_constant(network: Network, name: str, values: Array, dtype: DType) -> Tensor:
    """A constant of a float dtype from float64 values, rounded once."""
    if not dtype.is_stored_as_bits:
        return network.add_constant(name, np.ascontiguousarray(values, dtype.numpy), dtype)
    data, _ = constant_from_torch(to_dtype(torch.from_numpy(values), dtype))
    return network.add_constant(name, data, dtype)


def changed_constant(network: Network, old: Tensor, user: Layer, values: Array) -> Tensor:
    """A copy of a constant with other values, for one user; takes over the name if it can."""
    if not (len(old.users) == 1 and user in old.users) or network.is_output(old):
        return add_constant(network, old.name, values, old.dtype)
    name = old.name
    network.rename(old, f"{name}:old")
    return add_constant(network, name, values, old.dtype)
