"""Corrects quantized layers one after the other, so that each gives what the float layer gave.

    bias      what the mean of an output channel's sums has moved by, on calibration data, is
              added to them: rounded weights and inputs shift means, and shifts add up with depth
    rounding  the weight is rounded by `torch2rt.quantize.rounding`, for the inputs as they are
              after the layers before were quantized and corrected

Source of the first: Nagel et al. 2019, Data-Free Quantization (arXiv 1906.04721), with data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from torch2rt import expression as ex
from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.fusions.contraction import channel_axis
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.dequantize import Dequantize
from torch2rt.layers.matmul import Matmul
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.quantize.corrections import Correction
from torch2rt.quantize.rounding import round_weight
from torch2rt.torch_values import constant_to_torch

Results = tuple[torch.Tensor, ...]


def correct_layers(
    network: Network, quantized: Network, inputs: Mapping[str, torch.Tensor], *,
    names: Collection[str] = ("bias_correction", "rounding"), device: torch.device | None = None,
) -> dict[str, Correction]:
    """Corrections of the quantized layers by the names of their outputs.

    ``network`` is the float32 network, ``quantized`` the same with quantize and dequantize
    layers, not yet folded. ``inputs`` are samples of calibration data, ``names`` what to correct.
    """
    wanted = {layer.output.name for layer in quantized.layers if _is_quantized(layer)}
    means = _means(network, inputs, wanted, device)
    correcting = _Correcting(network, means, names)
    runner = NetworkRunner(quantized, device=device)
    runner.run(inputs, decide=correcting)
    return correcting.found


class _Correcting:
    """Runs quantized layers corrected, and notes the corrections."""

    def __init__(
        self, network: Network, means: Mapping[str, torch.Tensor], names: Collection[str]
    ) -> None:
        self.found: dict[str, Correction] = {}
        self._layers = {layer.output.name: layer for layer in network.layers
                        if len(layer.outputs) == 1}
        self._means = means
        self._names = names

    def __call__(self, layer: Layer, inputs: Results, results: Results) -> Results:
        """The results of a quantized layer as it will be; those of others as they are."""
        if layer.outputs[0].name not in self._means:
            return results
        x, weight, *others = inputs
        rounded = self._rounded(layer, x) if "rounding" in self._names else None
        delta = None
        if rounded is not None:
            integers, scale = rounded
            nearest = torch.round(weight / scale)
            weight = (integers * scale).to(weight.dtype)
            delta = (integers - nearest).cpu().numpy().astype(np.int8)
        (sums,) = layer.kind.reference((x, weight))
        shift = self._means[layer.output.name] - _mean(layer, sums)
        bias = shift.float() * ("bias_correction" in self._names)
        self.found[layer.output.name] = Correction(bias.cpu().numpy(), delta)
        sums = sums + bias.reshape(-1, *(1,) * (-1 - channel_axis(layer)))
        return _finished(layer, sums, others)

    def _rounded(
        self, layer: Layer, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The weight's integers and its scale."""
        restored = layer.inputs[1].producer
        assert restored is not None
        step = restored.inputs[1]
        original = self._layers[layer.output.name].inputs[1]
        assert step.data is not None
        assert original.data is not None
        scale = constant_to_torch(step.data, step.dtype).to(x.device)
        weight = constant_to_torch(original.data, original.dtype).to(x.device)
        integers = round_weight(layer.kind, x, weight, scale)
        return None if integers is None else (integers.float(), scale)


def _means(
    network: Network, inputs: Mapping[str, torch.Tensor], wanted: set[str],
    device: torch.device | None,
) -> dict[str, torch.Tensor]:
    """Means of the sums of products by output channel, by the names of the layers' outputs."""
    means: dict[str, torch.Tensor] = {}

    def observe(layer: Layer, given: Results, _: Results) -> None:
        name = layer.outputs[0].name
        if name in wanted:
            (sums,) = layer.kind.reference(given[:2])
            means[name] = _mean(layer, sums)

    NetworkRunner(network, device=device).run(inputs, observe=observe)
    return means


def _is_quantized(layer: Layer) -> bool:
    """Whether it multiplies with a constant weight that is stored in 8 bits."""
    if not isinstance(layer.kind, Convolution | Matmul):
        return False
    restored = layer.inputs[1].producer
    return restored is not None and isinstance(restored.kind, Dequantize) and all(
        tensor.is_constant for tensor in restored.inputs
    )


def _mean(layer: Layer, sums: torch.Tensor) -> torch.Tensor:
    """The mean of each output channel, in float64."""
    return sums.movedim(channel_axis(layer), -1).flatten(0, -2).double().mean(0)


def _finished(layer: Layer, sums: torch.Tensor, others: Sequence[torch.Tensor]) -> Results:
    """The sums after the epilogue."""
    if layer.epilogue is None:
        return (sums,)
    return (ex.evaluate_torch(layer.epilogue, [sums, *others]),)
