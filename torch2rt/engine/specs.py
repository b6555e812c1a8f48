"""Layers and tensors of a network at concrete sizes, as tactics see them."""

from __future__ import annotations

from collections.abc import Mapping

from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.layers.specialize import specialize_kind
from torch2rt.network.dim import substitute
from torch2rt.network.layer import Layer
from torch2rt.network.tensor import Tensor


def tensor_spec(tensor: Tensor, symbols: Mapping[str, int]) -> TensorSpec:
    """A tensor at concrete sizes, row-major."""
    return TensorSpec(tuple(substitute(dim, symbols) for dim in tensor.shape), tensor.dtype)


def layer_spec(layer: Layer, symbols: Mapping[str, int]) -> LayerSpec:
    """A layer at concrete sizes, everything row-major."""
    return LayerSpec(
        name=layer.name,
        where=layer.where,
        kind=specialize_kind(layer.kind, symbols),
        epilogue=layer.epilogue,
        inputs=tuple(tensor_spec(tensor, symbols) for tensor in layer.inputs),
        outputs=tuple(tensor_spec(tensor, symbols) for tensor in layer.outputs),
        constants=tuple(t.name if t.is_constant else None for t in layer.inputs),
    )
