"""Weights of linear layers in 8 bits, beside activations that stay float: no calibration needed.

Before: %y = matmul(%x, @w, @b) epilogue add(i0,i1)
After:  %y = matmul(%x, @w.int8, @s, @b) epilogue add(mul(i0,i1),i2)

Symmetric, one scale per output channel, as with 8-bit activations. What is read from memory for
a few rows is almost all weights, so that a quarter of the bytes takes a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torch2rt.fusions.base import Fuse, fusions_between
from torch2rt.fusions.rewrite import values_of
from torch2rt.fusions.stored_weight_into_matmul import StoredWeightIntoMatmul
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.matmul import Matmul
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Log, run_passes
from torch2rt.quantize.insert import quantize_weight

NAME = "store_weights"


def store_weights(
    network: Network, *, is_wanted: Callable[[Layer], bool], log: Log | None = None
) -> None:
    """Store the constant matrices of linear layers in int8, in place."""
    log = log if log is not None else Log()
    for layer in network.layers:
        if not isinstance(layer.kind, Matmul) or not is_wanted(layer):
            continue
        reason = _refusal(layer)
        if reason is not None:
            log.reject(NAME, layer, reason)
            continue
        _store(network, layer)
        log.fire(NAME, layer)
    priority = StoredWeightIntoMatmul.priority
    run_passes(network, [Fuse("fold_weights", fusions_between(priority, priority + 1))], log=log)


def _refusal(layer: Layer) -> str | None:
    weight, kind = layer.inputs[1], layer.kind
    assert isinstance(kind, Matmul)
    if kind.transpose_a:
        return "its first operand is transposed"
    if not weight.is_constant or weight.rank != 2:
        return "its second operand is no constant matrix"
    if not weight.dtype.is_float:
        return f"its weight is {weight.dtype.value}"
    return None if np.isfinite(values_of(weight)).all() else "its weight is not finite"


def _store(network: Network, layer: Layer) -> None:
    """A dequantize layer of a stored weight in place of the weight."""
    weight, kind = layer.inputs[1], layer.kind
    assert isinstance(kind, Matmul)
    axis = 0 if kind.transpose_b else 1
    stored, scale = quantize_weight(values_of(weight).astype(np.float32), axis)
    restored = network.add(
        Dequantize(weight.dtype),
        [
            network.add_constant(f"{weight.name}.int8", stored),
            network.add_constant(f"{weight.name}.scale", scale),
        ],
        before=layer, name=f"{layer.name}.weight", origins=layer.origins,
    )
    network.set_inputs(layer, (layer.inputs[0], restored.output, *layer.inputs[2:]))
