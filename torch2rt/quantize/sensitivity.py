"""What 8 bits in one layer alone do to the outputs: the noise of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tqdm import tqdm

from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.inspect.verify import exact_float32
from torch2rt.network.copy import copy_network
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.quantize.float8 import insert_float8
from torch2rt.quantize.insert import Ranges, insert_quantization
from torch2rt.quantize.mix import FP8, INT8

# So many samples show what a layer's 8 bits do.
SAMPLES = 8


def noise_of_layers(
    network: Network, table: Ranges, names: Sequence[str], inputs: Mapping[str, torch.Tensor], *,
    target: str, precision: str = INT8, device: torch.device | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """By layer, the square of the outputs' relative error where it alone has 8 bits.

    ``precision`` says which, int8 or fp8, and the table their ranges.
    Roundings of different layers are independent, so the squares of several add up, nearly.
    """
    inputs = {name: value.to(device or "cpu") for name, value in inputs.items()}
    noise: dict[str, float] = {}
    with exact_float32():
        want = NetworkRunner(network, device=device).run(inputs)
        for name in tqdm(names, desc="sensitivity", unit="layer", disable=not progress,
                         leave=False):

            def precision_of(layer: Layer, name: str = name) -> str:
                return precision if layer.name == name else "fp32"

            quantized = copy_network(network)
            if precision == FP8:
                insert_float8(quantized, table, overrides=precision_of)
            else:
                insert_quantization(quantized, table, target=target, overrides=precision_of)
            got = NetworkRunner(quantized, device=device).run(inputs)
            noise[name] = _relative_noise(got, want)
    return noise


def _relative_noise(got: Mapping[str, torch.Tensor], want: Mapping[str, torch.Tensor]) -> float:
    """The mean over outputs of ||y' - y||^2 / ||y||^2; of integers, the share that differs."""
    ratios = []
    for name, value in want.items():
        if not value.is_floating_point():
            ratios.append(float((got[name] != value).double().mean()) if value.numel() else 0.0)
            continue
        signal = float(torch.linalg.vector_norm(value.double())) ** 2
        noise = float(torch.linalg.vector_norm(got[name].double() - value.double())) ** 2
        ratios.append(noise / max(signal, 1e-30))
    return sum(ratios) / max(1, len(ratios))
