"""What merging siblings shares: contractions of one input whose weights can be stacked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torch2rt.fusions.contraction import Contraction, channel_axis, output_channels, per_channel
from torch2rt.fusions.rewrite import add_constant, merged_origins, remove_if_unused, values_of
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.layers.slice import Slice
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

# Of constants in epilogues.
_STACKED = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)


@dataclass(frozen=True)
class Siblings:
    """Layers of one kind that read one input, in topological order."""

    layers: tuple[Layer, ...]


def stackable_weight(layer: Layer) -> Tensor | None:
    """The constant weight of a contraction, of floats or of bytes that sum to int32."""
    if not isinstance(layer.kind, Contraction):
        return None
    weight = layer.main_inputs[1]
    is_taken = weight.dtype.is_float or weight.dtype in EIGHT_BITS
    return weight if weight.is_constant and is_taken else None


def siblings_of(network: Network, layer: Layer) -> Siblings | None:
    """All layers that could be merged with this one, if it is the first of several."""
    x, weight = layer.inputs[0], layer.inputs[1]
    candidates = [
        user for user in x.users
        if user.kind == layer.kind
        and user.main_inputs[0] is x
        and user.epilogue == layer.epilogue
        and user.output.dtype == layer.output.dtype
        and (other := stackable_weight(user)) is not None
        and other.dtype == weight.dtype
    ]
    if len(candidates) < 2:
        return None
    ordered = tuple(sorted(candidates, key=network.position))
    return Siblings(ordered) if ordered[0] is layer else None


def refusal(network: Network, match: Siblings) -> Reject | None:
    """Why stacking would not do: an epilogue that reads tensors, or a result that is returned."""
    for layer in match.layers:
        if network.is_output(layer.output):
            return Reject(f"{layer.output.name} is a network output", layer.name)
        if stacked_values(layer) is None:
            return Reject("its epilogue reads more than constants per channel", layer.name)
    return None


def stacked_values(layer: Layer) -> list[Array] | None:
    """The epilogue's operands as one value per channel, [k] each; None if one is not so."""
    channels = output_channels(layer)
    values = []
    for tensor in layer.epilogue_inputs:
        if channels is None or not tensor.is_constant or tensor.dtype not in _STACKED:
            return None
        flat = per_channel(values_of(tensor), channel_axis(layer), channels)
        if flat is None:
            return None
        values.append(flat)
    return values


def merge(network: Network, match: Siblings, weight: Array) -> Layer:
    """One layer with the stacked ``weight``, and a slice of its channels for each of the old.

    Stacked in the order of the match, and put where the earliest of the layers is.
    """
    first = min(match.layers, key=network.position)
    axis = channel_axis(first)
    name = "-".join(layer.name for layer in match.layers)
    operands = []
    for index in range(len(first.epilogue_inputs)):
        parts = [stacked_values(layer) or [] for layer in match.layers]
        stacked = np.concatenate([part[index] for part in parts])
        shaped = stacked.reshape(-1, *(1,) * (-axis - 1))
        dtypes = {layer.epilogue_inputs[index].dtype for layer in match.layers}
        dtype = dtypes.pop() if len(dtypes) == 1 else DType.FLOAT32  # which holds them all
        operands.append(add_constant(network, f"{name}.term{index}", shaped, dtype))
    stacked_weight = add_constant(network, f"{name}.weight", weight, first.inputs[1].dtype)
    merged = network.add(
        first.kind, (first.inputs[0], stacked_weight, *operands), name=name, before=first,
        epilogue=first.epilogue, output_dtypes=(first.output.dtype,),
        origins=merged_origins(*match.layers),
    )
    _split(network, merged, match.layers, first)
    return merged


def _split(network: Network, merged: Layer, layers: tuple[Layer, ...], before: Layer) -> None:
    rank = merged.output.rank
    axis = rank + channel_axis(merged)
    offset = 0
    for layer in layers:
        starts = tuple(offset if index == axis else 0 for index in range(rank))
        kind = Slice(starts, layer.output.shape, (1,) * rank)
        part = network.add(
            kind, (merged.output,), name=f"{layer.name}.part", before=before,
            origins=layer.origins,
        )
        network.replace(layer.output, part.output)
        offset += output_channels(layer) or 0
    for layer in layers:
        remove_if_unused(network, layer)
