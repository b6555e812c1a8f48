"""Products in float8 (E4M3): quantize and dequantize layers, folded into what multiplies.

Before: %p = matmul(%x, @w, @b) epilogue add(i0,i1)   then slices of %p to %q, %k, %v
        %y = attention(%q, %k, %v)
After:  %x8 = quantize(%x, @s)           (by whoever writes %x, in its epilogue, after fusion)
        %p8 = matmul(%x8, @w8, @sw, @b) epilogue clamp(mul(add(mul(i0,i1),i2),...))
        %y = attention(%q8, %k8, %v8) epilogue mul(i0,...)

Quantized are linear layers, their weights too, and what attention reads. One scale per tensor and
per output channel of a weight: the largest magnitude becomes 448, the largest float8. Steps are
fine for small numbers, so that nothing is gained by clipping large ones, and query, key and value
may have one scale: projections that are merged, or are one, write all three alike.
Quantized is what products read, not what others read beside them: residual streams stay float.
Where values only move between, they do so as bytes: what wrote them quantizes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from torch2rt.fusions.base import Fuse, fusions_between
from torch2rt.fusions.rewrite import add_constant
from torch2rt.layers.attention import Attention
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.quantize import Quantize
from torch2rt.layers.reshape import Reshape
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose
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
    """Quantize the products of an optimised float32 network to float8, in place.

    ``overrides`` tells for a layer which precision it is to have: those it gives another than
    "fp8" stay as they are.
    """
    log = log if log is not None else Log()
    thresholds = thresholds_of(network, table)
    wanted: dict[Layer, None] = {}
    for layer in network.layers:
        if not isinstance(layer.kind, Attention | Matmul):
            continue
        reason = _refusal(layer, overrides, thresholds)
        if reason is not None:
            log.reject(NAME, layer, reason)
            continue
        wanted[layer] = None
        log.fire(NAME, layer)
    _quantize_operands(network, _Reading(network, wanted), thresholds)
    for layer in wanted:
        if isinstance(layer.kind, Matmul):
            inputs = (layer.inputs[0], _weight(network, layer), *layer.inputs[2:])
            network.set_inputs(layer, inputs)
    run_passes(network, [Fuse("fold_quantization", fusions_between(*FOLDING))], log=log)


def operands_of(layer: Layer) -> tuple[Tensor, ...]:
    """What a layer reads in float8 beside weights: the first input, or query, key and value."""
    return layer.inputs[:3] if isinstance(layer.kind, Attention) else layer.inputs[:1]


def _refusal(
    layer: Layer, overrides: Overrides, thresholds: Mapping[Tensor, float]
) -> str | None:
    precision = overrides(layer)
    if precision not in (None, "fp8"):
        return f"it is to be {precision}"
    if isinstance(layer.kind, Matmul):
        weight = layer.main_inputs[1]
        if not weight.is_constant or weight.rank != 2 or weight.dtype is not DType.FLOAT32:
            return "its second operand is no constant float32 matrix"
    elif {x.dtype for x in operands_of(layer)} != {DType.FLOAT32}:
        return "its query, key or value is no float32"
    for x in operands_of(layer):
        if x.is_constant or thresholds.get(x, 0.0) <= 0:
            return f"no range is known of {x.name}"
    return None


class _Reading:
    """Who reads what in float8: ``wanted`` layers, and those that move it on to them."""

    def __init__(self, network: Network, wanted: Mapping[Layer, None]) -> None:
        self.network = network
        self.wanted = wanted
        self._is_whole: dict[Tensor, bool] = {}

    def source(self, x: Tensor) -> Tensor:
        """The tensor that ``x`` is moved from, if nobody reads anything on the way as a float."""
        while x.producer is not None and _moves(x.producer) and self.is_whole(x.producer.inputs[0]):
            x = x.producer.inputs[0]
        return x

    def is_whole(self, tensor: Tensor) -> bool:
        """Whether all that reads a tensor reads it in float8."""
        if tensor not in self._is_whole:
            self._is_whole[tensor] = not self.network.is_output(tensor) and all(
                self._reads_float8(user, tensor) for user in tensor.users
            )
        return self._is_whole[tensor]

    def readers(self, source: Tensor) -> list[Layer]:
        """The layers that are to read a source in float8."""
        is_whole = self.is_whole(source)
        return [
            user for user in source.users
            if (user in self.wanted and source in operands_of(user)) or (is_whole and _moves(user))
        ]

    def _reads_float8(self, user: Layer, tensor: Tensor) -> bool:
        if user in self.wanted:
            operands = operands_of(user)
            return tensor in operands and tensor not in user.inputs[len(operands) :]
        return _moves(user) and self.is_whole(user.output)


def _moves(layer: Layer) -> bool:
    """Whether a layer only moves the values of one tensor."""
    return isinstance(layer.kind, Reshape | Slice | Transpose) and layer.epilogue is None


def _quantize_operands(
    network: Network, reading: _Reading, thresholds: Mapping[Tensor, float]
) -> None:
    """Sources in float8 and back for all who are to read them so; operands of a layer alike."""
    largest: dict[Tensor, float] = {}
    for layer in reading.wanted:
        operands = operands_of(layer)
        threshold = max(thresholds[x] for x in operands)
        for source in map(reading.source, operands):
            largest[source] = max(threshold, largest.get(source, 0.0))
    readers = {source: reading.readers(source) for source in largest}
    for source, threshold in largest.items():
        first = min(readers[source], key=network.position)
        restored = _quantized(network, first, source, threshold)
        for layer in readers[source]:
            count = len(operands_of(layer))
            operands = tuple(restored if x is source else x for x in layer.inputs[:count])
            network.set_inputs(layer, (*operands, *layer.inputs[count:]))


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
