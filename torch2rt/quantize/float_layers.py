"""Which layers stay in float because the outputs lose too much by their 8 bits.

By error, not by rule: the noise that a layer's weight and input make in the outputs is estimated
from gradients; layers of much noise for what 8 bits save are left in float first, and so many
that the network that is left, run on calibration data, is within the error.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from torch2rt import expression as ex
from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.layers.dequantize import Dequantize
from torch2rt.network.copy import copy_network
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.quantize.gradients import Sensed, pieces_of, sense
from torch2rt.quantize.insert import (
    groups_to_quantize,
    insert_quantization,
)
from torch2rt.quantize.mix import INT8
from torch2rt.quantize.output_ranges import rounding_errors, stored_names
from torch2rt.quantize.table import CalibrationTable
from torch2rt.torch_values import constant_to_torch

logger = logging.getLogger(__name__)

# Products that take as long as moving one value; only the order of layers depends on it.
_PRODUCTS = 32
_SUMS = 4  # whose gradients are taken of each sample
# A round of the search is worth another where it leaves so many of the layers in float.
_BETTER = 0.9
# Layers given back to 8 bits are tried in parts, down to such a part of all.
_PARTS = 8
_SMALLEST = 1e-30


def layers_in_float(
    network: Network, table: CalibrationTable, inputs: Mapping[str, torch.Tensor], *,
    target: str, max_error: float, device: torch.device | None = None,
) -> dict[str, float]:
    """The layers that stay in float by the names of their outputs, and their noise in dB.

    None does where the relative error of the outputs, on samples of calibration data, is at most
    ``max_error`` with 8 bits wherever they can be.
    """
    trial = _Trial(network, table, inputs, target, device)
    if trial.error(()) <= max_error:
        return {}
    noise = noise_for_gain(network, table, inputs, target=target, device=device)
    order = sorted(noise, key=lambda name: noise[name][1], reverse=True)

    def is_within(names: Sequence[str]) -> bool:
        return trial.error(names) <= max_error

    kept = without_needless(enough_of(order, is_within), is_within)
    logger.info("%d of %d layers stay in float", len(kept), len(order))
    return {name: _decibels(noise[name][0]) for name in sorted(kept)}


def enough_of(order: Sequence[str], is_within: Callable[[Sequence[str]], bool]) -> list[str]:
    """The first so many that are within the error, by bisection; all where none is.

    Noise is an estimate, and one layer whose noise it has too low lets all before it stay in
    float. It is the last of them: it comes first in the next round, while that helps.
    """
    first: list[str] = []
    rest, best = list(order), list(order)
    for number in itertools.count():
        low, high = 0, len(rest)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_within(first + rest[:middle]) else (middle + 1, high)
        found = first + rest[:low]
        is_better = len(found) < _BETTER * len(best)
        best = min(best, found, key=len)
        if low == 0 or (number and not is_better):
            break
        first.append(rest.pop(low - 1))
    return best


def without_needless(
    kept: Sequence[str], is_within: Callable[[Sequence[str]], bool]
) -> list[str]:
    """Layers without parts of them that the error allows 8 bits after all, the last tried first."""
    left = list(kept)
    size = len(left) // 2
    while size and size * _PARTS >= len(kept):
        for start in range(len(left) - size, -1, -size):
            fewer = left[:start] + left[start + size :]
            if is_within(fewer):
                left = fewer
        size //= 2
    return left


class _Trial:
    """Runs a network with some layers in float and the others in 8 bits."""

    def __init__(
        self, network: Network, table: CalibrationTable, inputs: Mapping[str, torch.Tensor],
        target: str, device: torch.device | None,
    ) -> None:
        self._network, self._table, self._target = network, table, target
        self._device = device
        self._inputs = list(pieces_of(network, inputs))
        self._wanted = self._run(network)

    def error(self, in_float: Collection[str]) -> float:
        """The relative error of the outputs, as the root of the mean square over samples."""
        kept = frozenset(in_float)

        def precision(layer: Layer) -> str:
            return "fp32" if layer.outputs[0].name in kept else INT8

        quantized = copy_network(self._network)
        insert_quantization(  # unfolded: the same numbers, in float32
            quantized, self._table, target=self._target, overrides=precision, fold=False
        )
        found = self._run(quantized)
        errors = [_square_error(found[name], want) for name, want in self._wanted.items()]
        return math.sqrt(sum(errors) / max(1, len(errors)))

    def _run(self, network: Network) -> dict[str, torch.Tensor]:
        runner = NetworkRunner(network, device=self._device)
        parts = [runner.run(piece) for piece in self._inputs]
        return {
            name: torch.cat([part[name] if part[name].dim() else part[name][None]
                             for part in parts])
            for name in parts[0]
        }


def noise_for_gain(
    network: Network, table: CalibrationTable, inputs: Mapping[str, torch.Tensor], *,
    target: str, device: torch.device | None = None,
) -> dict[str, tuple[float, float]]:
    """By the names of their outputs: the noise of layers in 8 bits, and that for what they save.

    Noise is ||dy||^2 / ||y||^2 of the outputs, of the weight and of what the layer reads.
    """
    quantized = copy_network(network)
    insert_quantization(quantized, table, target=target, fold=False)
    layers = {layer.outputs[0].name: layer for layer in quantized.layers if _is_stored(layer)}
    readers = {name: network.tensor(name).producer for name in layers}
    groups = groups_to_quantize(network, table, target=target)
    group_of = {tensor: group for group in groups for tensor in group.tensors}
    made = dict.fromkeys(layers, 0.0)
    read = {id(group): 0.0 for group in groups}
    saved: dict[str, float] = {}
    samples = 0
    names = stored_names(groups) | set(layers)
    for sensed in sense(network, inputs, names, sums=_SUMS, device=device):
        samples += len(next(iter(sensed.values.values())))
        for group in groups:
            errors = rounding_errors(sensed, group, group.threshold, target)
            read[id(group)] += sensed.noise(errors)
        for name, layer in layers.items():
            made[name] += sensed.noise({name: _result(layer, sensed, name) - sensed.values[name]})
            saved[name] = _gain(sensed, name)
    noise = {}
    for name, reader in readers.items():
        assert reader is not None
        own = made[name] + read[id(group_of[reader.inputs[0]])]
        noise[name] = (own / max(1, samples), own / saved[name])
    return noise


def _is_stored(layer: Layer) -> bool:
    """Whether its weight is stored in 8 bits."""
    if layer.kind.name not in ("convolution", "matmul"):
        return False
    restored = layer.inputs[1].producer
    return restored is not None and isinstance(restored.kind, Dequantize)


def _result(layer: Layer, sensed: Sensed, name: str) -> torch.Tensor:
    """What a layer of an 8-bit weight makes of what the float layer was given."""
    x = sensed.given[name]
    restored = layer.inputs[1].producer
    assert restored is not None
    weight = restored.kind.reference([_constant(t, x[0]) for t in restored.inputs])[0]
    (sums,) = layer.kind.reference((x[0], weight))
    if layer.epilogue is None:
        return sums
    others = [
        _constant(tensor, x[0]) if tensor.is_constant else x[position]
        for position, tensor in enumerate(layer.inputs[2:], start=2)
    ]
    return ex.evaluate_torch(layer.epilogue, [sums, *others])


def _constant(tensor: Tensor, like: torch.Tensor) -> torch.Tensor:
    assert tensor.data is not None
    return constant_to_torch(tensor.data, tensor.dtype).to(like.device)


def _gain(sensed: Sensed, name: str) -> float:
    """What a layer takes, in values moved: what its 8 bits save is a part of it."""
    x, weight, *_ = sensed.given[name]
    y = sensed.values[name]
    products = y.numel() * weight.numel() / max(1, min(weight.shape[0], y[0].numel()))
    return x.numel() + y.numel() + products / _PRODUCTS


def _square_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """||y' - y||^2 / ||y||^2, the mean over samples; of integers, the share that differs."""
    if not want.is_floating_point():
        return float((got != want).double().mean()) if want.numel() else 0.0
    got, want = got.double().reshape(len(want), -1), want.double().reshape(len(want), -1)
    error = (got - want).square().sum(1) / want.square().sum(1).clamp(_SMALLEST)
    return float(error.mean())


def _decibels(noise: float) -> float:
    return round(10 * math.log10(max(noise, _SMALLEST)), 1)
