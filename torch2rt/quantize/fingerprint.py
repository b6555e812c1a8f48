"""What a model is known by: its layers and its weights, not its device and not its sizes."""

from __future__ import annotations

import hashlib
import json

from torch2rt.layers.registry import attributes_to_json
from torch2rt.network.network import Network

# Kinds whose attributes are sizes, which depend on what is dynamic.
_SIZED = frozenset({
    "adaptive_pool", "arange", "expand", "fill", "reshape", "resize", "slice", "slice_scatter",
})
_DIGITS = 16


def network_fingerprint(network: Network) -> str:
    """Digests of layers and of weights of a network as it was lowered, before any pass.

    Equal for one model on every device, at every batch size and whatever sizes are dynamic.
    """
    layers = hashlib.sha256()
    for layer in network.layers:
        attributes = {} if layer.kind.name in _SIZED else attributes_to_json(layer.kind)
        line = [
            layer.kind.name, [tensor.name for tensor in layer.inputs],
            [tensor.name for tensor in layer.outputs], attributes,
            layer.epilogue.text if layer.epilogue is not None else "",
        ]
        layers.update(json.dumps(line, sort_keys=True).encode())
    weights = hashlib.sha256()
    for tensor in sorted(network.constants, key=lambda tensor: tensor.name):
        assert tensor.data is not None
        weights.update(f"{tensor!r}".encode())
        weights.update(tensor.data.tobytes())
    return f"{layers.hexdigest()[:_DIGITS]}-{weights.hexdigest()[:_DIGITS]}"
