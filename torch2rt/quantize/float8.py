"""Linear layers in float8 (E4M3): quantize and dequantize layers, folded into products of float8.

Before: %y = matmul(%x, @w, @b) epilogue add(i0,i1)
After:  %x8 = quantize(%x, @s)           (by whoever writes %x, in its epilogue, after fusion)
        %y = matmul(%x8, @w8, @sw, @b) epilogue add(mul(i0,i1),i2)

One scale per tensor and per output channel of a weight: the largest magnitude becomes 448, the
largest float8. Steps are fine for small numbers, so that nothing is gained by clipping large ones.
Quantized is what products read, not what others read beside them: residual streams stay float.
"""

from __future__ import annotations

import numpy as np

from torch2rt.fusions.base import Fuse, fusions_between
from torch2rt.fusions.rewrite import add_constant
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.quantize import Quantize
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.network.torch_cast import FLOAT8_MAX
from torch2rt.passes.base import Log, run_passes
from torch2rt.passes.pipeline import FOLDING
from torch2rt.quantize.insert import SMALLEST_WEIGHT, Overrides, Ranges, thresholds_of

NAME = "quantize_to_float8"
_LIMIT = int(FLOAT8_MAX)


def insert_float8(
    network: Network, table: Ranges, *, overrides: Overrides, log: Log | None = None
) -> None:
    """Quantize the linear layers of an optimised float32 network to float8, in place.

    ``overrides`` tells for a layer which precision it is to have: those it gives another than
    "fp8" stay as they are.
    """
    log = log if log is not None else Log()
    thresholds = thresholds_of(network, table)
    stored: dict[Tensor, Tensor] = {}
    for layer in network.layers:
        if not isinstance(layer.kind, Matmul):
            continue
        reason = _refusal(layer, overrides, thresholds.get(layer.inputs[0], 0.0))
        if reason is not None:
            log.reject(NAME, layer, reason)
            continue
        x = layer.inputs[0]
        if x not in stored:
            stored[x] = _quantized(network, layer, x, thresholds[x])
        weight = _weight(network, layer)
        network.set_inputs(layer, (stored[x], weight, *layer.inputs[2:]))
        log.fire(NAME, layer)
    run_passes(network, [Fuse("fold_quantization", fusions_between(*FOLDING))], log=log)


def _refusal(layer: Layer, overrides: Overrides, threshold: float) -> str | None:
    precision = overrides(layer)
    if precision not in (None, "fp8"):
        return f"it is to be {precision}"
    x, weight = layer.main_inputs
    if not weight.is_constant or weight.rank != 2 or weight.dtype is not DType.FLOAT32:
        return "its second operand is no constant float32 matrix"
    if x.is_constant or threshold <= 0:
        return f"no range is known of {x.name}"
    return None


def _quantized(network: Network, layer: Layer, x: Tensor, threshold: float) -> Tensor:
    """A tensor in float8 and back, before the first layer that is to read it so."""
    step = np.array(threshold / FLOAT8_MAX, np.float32)
    scale = network.add_constant(f"{x.name}.scale", step)
    origins = x.producer.origins if x.producer is not None else layer.origins
    stored = network.add(
        Quantize(DType.FLOAT8_E4M3, -_LIMIT, _LIMIT), [x, scale], before=layer,
        name=f"{x.name}.{DType.FLOAT8_E4M3.value}", origins=origins,
    )
    return network.add(
        Dequantize(), [stored.output, scale], before=layer, name=f"{x.name}.restored",
        origins=origins,
    ).output


def _weight(network: Network, layer: Layer) -> Tensor:
    """The weight of a layer in float8 and back, with a scale per output channel."""
    weight, kind = layer.inputs[1], layer.kind
    assert weight.data is not None
    assert isinstance(kind, Matmul)
    largest = np.abs(weight.data).max(axis=1 if kind.transpose_b else 0, keepdims=True, initial=0.0)
    scale = np.where(largest > SMALLEST_WEIGHT, largest / FLOAT8_MAX, 1.0).astype(np.float32)
    constants = [
        add_constant(network, f"{weight.name}.float8", weight.data / scale, DType.FLOAT8_E4M3),
        network.add_constant(f"{weight.name}.scale", scale),
    ]
    return network.add(
        Dequantize(), constants, before=layer, name=f"{layer.name}.weight", origins=layer.origins
    ).output
