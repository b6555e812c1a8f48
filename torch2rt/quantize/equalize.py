"""Gives the channels of a tensor like ranges, so that one scale serves them all.

Before: %y = convolution(%x, @a, @b) epilogue relu(add(i0,i1))    %z = convolution(%y, @w)
After:  %y = convolution(%x, @a/s, @b/s) epilogue ...             %z = convolution(%y, @w*s)

s has one number per channel of %y; what follows the channels' sums is positively homogeneous, so
%z is the same. Tensors that are added to each other have one s. Quantized per tensor, a channel
of small values would be left with few of the 256 steps.

Fires when: all who write the tensors are contractions with constant weights whose epilogue adds,
takes relu or clamps from 0, and all who read them are contractions or such epilogues.
A clamp's upper bound (relu6) stays as it is: no s is above 1, and s keeps a margin between the
largest value that was seen of a channel and the bound. Source: Nagel et al. 2019, Data-Free
Quantization (arXiv 1906.04721), with ranges of data as in SmoothQuant (arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from torch2rt import expression as ex
from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.fusions.contraction import channel_axis, with_scaled_inputs, with_scaled_outputs
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import Array, DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor

_SMALLEST = 1 / 64  # of the largest s
_MARGIN = 1.5  # between what was seen of a channel and a clamp's bound

Scales = Mapping[str, Array]


@dataclass
class Stream:
    """Tensors with the same channels, who writes and who reads them."""

    tensors: list[Tensor] = field(default_factory=list)
    writers: list[Layer] = field(default_factory=list)
    readers: list[Layer] = field(default_factory=list)
    bound: float = np.inf

    @property
    def name(self) -> str:
        """That of its first tensor."""
        return self.tensors[0].name


def find_scales(
    network: Network, inputs: Mapping[str, torch.Tensor], device: torch.device | None = None
) -> dict[str, Array]:
    """Scales [channels] of every stream of a network, by the stream's name, from samples."""
    streams = list(streams_of(network))
    wanted = {tensor.name for stream in streams for tensor in stream.tensors}
    seen: dict[str, Array] = {}

    def observe(
        layer: Layer, _: tuple[torch.Tensor, ...], results: tuple[torch.Tensor, ...]
    ) -> None:
        if layer.outputs[0].name in wanted:
            largest = results[0].abs().movedim(channel_axis(layer), -1).flatten(0, -2).amax(0)
            seen[layer.outputs[0].name] = largest.double().cpu().numpy()

    NetworkRunner(network, device=device).run(inputs, observe=observe)
    return {
        stream.name: _scale(stream, np.max([seen[t.name] for t in stream.tensors], axis=0))
        for stream in streams
    }


def equalize(network: Network, scales: Scales) -> None:
    """Rescale the streams of an optimised float32 network, in place.

    ValueError for scales of another network.
    """
    streams = {stream.name: stream for stream in streams_of(network)}
    unknown = set(scales) - set(streams)
    if unknown:
        raise ValueError(f"no channels to equalize in {sorted(unknown)[0]!r}")
    for name, scale in scales.items():
        stream, values = streams[name], scale.astype(np.float64)
        channels = stream.tensors[0].shape[channel_axis(stream.writers[0])]
        if values.shape != (channels,):
            raise ValueError(f"{values.size} scales of {channels} channels in {name!r}")
        for layer in stream.writers:
            _set(network, layer, 1, with_scaled_outputs(layer, 1 / values))
            _scale_biases(network, layer, 1 / values)
        for layer in stream.readers:
            _set(network, layer, 1, with_scaled_inputs(layer, values))


def streams_of(network: Network) -> Iterator[Stream]:
    """The streams whose channels may be rescaled, in the order of their first writers."""
    done: set[Tensor] = set()
    for layer in network.layers:
        if len(layer.outputs) == 1 and layer.output not in done:
            stream = Stream()
            is_whole = _gather(network, layer.output, stream)
            done.update(stream.tensors)
            if is_whole and stream.readers:
                yield stream


def _gather(network: Network, start: Tensor, stream: Stream) -> bool:
    """Fill a stream from one of its tensors; False where something forbids rescaling."""
    waiting, is_whole = [start], True
    while waiting:
        tensor = waiting.pop()
        if tensor in stream.tensors:
            continue
        stream.tensors.append(tensor)
        writer = tensor.producer
        if writer is None or network.is_output(tensor) or not _may_write(writer):
            is_whole = False
            continue
        stream.writers.append(writer)
        stream.bound = min(stream.bound, _bound(writer))
        waiting += _residuals(writer)
        for reader in tensor.users:
            if reader.inputs.count(tensor) != 1:
                is_whole = False
            elif _has_weight(reader) and reader.inputs[0] is tensor:
                stream.readers.append(reader)
            elif tensor in _residuals(reader):
                waiting.append(reader.output)
            else:
                is_whole = False
    return is_whole


def _has_weight(layer: Layer) -> bool:
    """Whether it is a contraction with a float32 weight of its own."""
    if not isinstance(layer.kind, Convolution | Matmul):
        return False
    weight = layer.main_inputs[1]
    is_own = weight.is_constant and len(weight.users) == 1
    is_matrix = not isinstance(layer.kind, Matmul) or weight.rank == 2
    return is_own and is_matrix and weight.dtype is DType.FLOAT32


def _may_write(layer: Layer) -> bool:
    if not _has_weight(layer) or layer.output.dtype is not DType.FLOAT32:
        return False
    epilogue = layer.epilogue if layer.epilogue is not None else ex.Input(0)
    return _is_homogeneous(epilogue) and all(
        _is_bias(layer, tensor) or tensor.shape == layer.output.shape
        for tensor in layer.epilogue_inputs
    )


def _is_homogeneous(part: ex.Expression) -> bool:
    """Whether s times all inputs gives s times the result, s > 0; upper bounds left aside."""
    match part:
        case ex.Input():
            return True
        case ex.Apply(op="add" | "sub", arguments=(left, right)):
            return _is_homogeneous(left) and _is_homogeneous(right)
        case ex.Apply(op="relu", arguments=(inner,)):
            return _is_homogeneous(inner)
        case ex.Apply(op="clamp", arguments=(inner, ex.Constant(value=low), ex.Constant())):
            return low == 0 and _is_homogeneous(inner)
    return False


def _is_bias(layer: Layer, tensor: Tensor) -> bool:
    """Whether it is a constant of one number per output channel, or of one for all."""
    axis = channel_axis(layer)
    sizes = {position - tensor.rank: size for position, size in enumerate(tensor.shape)}
    return tensor.is_constant and all(
        size == 1 or position == axis for position, size in sizes.items()
    )


def _residuals(layer: Layer) -> list[Tensor]:
    return [t for t in layer.epilogue_inputs if not t.is_constant] if _may_write(layer) else []


def _bound(layer: Layer) -> float:
    """The lowest upper bound of its clamps."""
    parts = ex.walk(layer.epilogue) if layer.epilogue is not None else ()
    bounds = [
        float(part.arguments[2].value) for part in parts
        if isinstance(part, ex.Apply) and part.op == "clamp"
        and isinstance(part.arguments[2], ex.Constant)
    ]
    return min(bounds, default=np.inf)


def _scale(stream: Stream, largest: Array) -> Array:
    """The s of a stream: the channels' ranges, or half way to weights of like columns.

    A depthwise convolution has a scale for each channel's weight, whatever the s.
    """
    columns = np.zeros(largest.shape)
    for reader in stream.readers:
        if not (isinstance(reader.kind, Convolution) and reader.kind.groups > 1):
            columns = np.maximum(columns, _column_ranges(reader))
    scale = np.maximum(largest, 1e-12)
    if columns.any():
        scale = np.sqrt(scale / np.maximum(columns, 1e-12 + _SMALLEST * columns.max()))
    if np.isfinite(stream.bound):
        spread = scale / scale.max()
        scale = np.minimum(1.0, np.maximum(spread, _MARGIN * largest / stream.bound))
    scale = np.maximum(scale / scale.max(), _SMALLEST)
    result: Array = scale.astype(np.float32)
    return result


def _column_ranges(reader: Layer) -> Array:
    """The largest magnitude of the weight for each input channel, in steps of its rows' scales."""
    weight = reader.main_inputs[1].data
    assert weight is not None
    is_rows = not isinstance(reader.kind, Matmul) or reader.kind.transpose_b
    rows = np.abs(weight if is_rows else weight.T).reshape(weight.shape[0 if is_rows else 1], -1)
    relative = rows / np.maximum(rows.max(1, keepdims=True), 1e-30)
    channels = weight.shape[1 if is_rows else 0]
    result: Array = relative.reshape(len(rows), channels, -1).max((0, 2)).astype(np.float64)
    return result


def _scale_biases(network: Network, layer: Layer, factor: Array) -> None:
    first = len(layer.main_inputs)
    for position, tensor in enumerate(layer.epilogue_inputs, start=first):
        if tensor.is_constant:
            assert tensor.data is not None
            shaped = factor.reshape(-1, *(1,) * (-1 - channel_axis(layer)))
            _set(network, layer, position, tensor.data.astype(np.float64) * shaped)


def _set(network: Network, layer: Layer, position: int, data: Array) -> None:
    """Another constant for one input of a layer, under the old one's name."""
    old = layer.inputs[position]
    inputs = list(layer.inputs)
    inputs[position] = network.add_constant(f"{old.name}.equalized", data.astype(np.float32))
    network.set_inputs(layer, tuple(inputs))
    if not network.is_used(old):
        network.remove_constant(old)
