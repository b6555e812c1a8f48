"""What quantization loses, layer by layer: SQNR against the float32 network on example inputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import torch

from torch2rt.backends.reference.executor import NetworkRunner
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dim import is_symbol
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.quantize.float8 import operands_of

# So many samples of the inputs are looked at, where their first axis is dynamic.
_SAMPLES = 4
_STORED = (*EIGHT_BITS, DType.FLOAT8_E4M3)


@dataclass(frozen=True, slots=True)
class LayerQuality:
    """One quantized layer: what it keeps of the float32 network's result, and its input's range.

    ``sqnr_db`` is 20 log10(||y|| / ||y' - y||) of its result, what layers before it lost included;
    None where it is exact, or nothing but zeros. ``threshold`` is the largest magnitude kept of
    its input, stored as ``dtype``; None, and ``dtype`` says so, where only weights have 8 bits.
    """

    layer: str
    where: str
    sqnr_db: float | None
    threshold: float | None
    dtype: str

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        return asdict(self)


def layer_quality(
    before: Network, after: Network, inputs: Mapping[str, torch.Tensor],
    thresholds: Mapping[str, float], device: torch.device | None = None,
) -> list[LayerQuality]:
    """The quality of every 8-bit product of ``after``, in order.

    ``before`` is the float32 network that it was made from: layers keep their names. ``after`` is
    not yet optimised, so that its products still give float32. ``thresholds`` are the ranges
    of tensors by name.
    """
    quantized = [layer for layer in after.layers if _stored_as(layer) is not None]
    wanted = {layer.output.name for layer in quantized if before.has_tensor(layer.output.name)}
    few = _few(before, inputs)
    exact = _outputs(before, few, wanted, device)
    found = _outputs(after, few, wanted, device)
    rows = []
    for layer in quantized:
        name = layer.output.name
        sqnr = _sqnr_db(exact[name], found[name]) if name in exact and name in found else None
        rows.append(LayerQuality(
            layer.name, layer.where, sqnr, _threshold(layer, thresholds), _stored_as(layer) or "",
        ))
    return rows


def _stored_as(layer: Layer) -> str | None:
    """What a product reads in 8 bits: the dtype of its input, or of its weights alone."""
    if layer.kind.name not in ("attention", "convolution", "matmul"):
        return None
    x, weight = (tensor.dtype for tensor in layer.main_inputs[:2])
    if x in _STORED:
        return x.value
    return f"{weight.value} weights" if weight in _STORED else None


def _few(network: Network, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The first samples, where the first axis of every input is one symbol."""
    firsts = {tensor.shape[0] if tensor.rank else 1 for tensor in network.inputs.values()}
    if len(firsts) != 1 or not is_symbol(next(iter(firsts))):
        return dict(inputs)
    return {name: value[:_SAMPLES] for name, value in inputs.items()}


def _outputs(
    network: Network, inputs: Mapping[str, torch.Tensor], wanted: Collection[str],
    device: torch.device | None,
) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}

    def observe(
        layer: Layer, _: tuple[torch.Tensor, ...], results: tuple[torch.Tensor, ...]
    ) -> None:
        for output, value in zip(layer.outputs, results, strict=True):
            if output.name in wanted and value.is_floating_point():
                kept[output.name] = value

    NetworkRunner(network, device=device).run(inputs, observe=observe)
    return kept


def _sqnr_db(want: torch.Tensor, got: torch.Tensor) -> float | None:
    signal = float(torch.linalg.vector_norm(want.double()))
    noise = float(torch.linalg.vector_norm(got.double() - want.double()))
    return 20 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _threshold(layer: Layer, thresholds: Mapping[str, float]) -> float | None:
    """The range of the layer's input, of several the largest; bytes are named after floats."""
    found = []
    for tensor in operands_of(layer):
        base = tensor.name.removesuffix(f".{tensor.dtype.value}")
        found.append(thresholds.get(base, thresholds.get(tensor.name)))
    return max((threshold for threshold in found if threshold is not None), default=None)
