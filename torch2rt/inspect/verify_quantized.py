"""Verification of engines with 8-bit layers or weights.

Two questions, of which the model's own tolerances answer neither. Does the engine compute the
quantized network? Then it may differ from its reference by values that fell to the other side of
a rounding, so by less than quantization itself does. And does the quantized network still stand
for the model? That is a matter of ranges: what is lost is reported, and refused only where the
result has little to do with the model's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from torch2rt.backends.reference.executor import run_network
from torch2rt.engine.engine import Engine
from torch2rt.errors import QuantizationError
from torch2rt.inspect.failure import failure
from torch2rt.inspect.tolerance import relative_error
from torch2rt.layers.accumulator import EIGHT_BITS, has_stored_weights
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType
from torch2rt.network.network import Network

# Relative error of an output against the model beyond which it is no use: 6 dB.
NONSENSE = 0.5
# What an engine may always be off its own reference, by roundings that went the other way and by
# what they change further on.
_FLIPS = 2e-2
_FINITE = sys.float_info.max
_STORED = (*EIGHT_BITS, DType.FLOAT8_E4M3)


def is_quantized(network: Network) -> bool:
    """Whether a layer rounds to 8 bits, integers or floats."""
    return any(
        output.dtype in _STORED and any(t.dtype not in _STORED for t in layer.inputs)
        for layer in network.layers for output in layer.outputs
    )


def stores_weights(network: Network) -> bool:
    """Whether a layer multiplies floats by weights that are stored in 8 bits."""
    return any(
        isinstance(layer.kind, Matmul)
        and has_stored_weights(layer.inputs[0].dtype, layer.inputs[1].dtype)
        for layer in network.layers
    )


def check_quantized(
    engine: Engine, runs: Sequence[Sequence[torch.Tensor]], inputs: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor], what: str, *, is_judged: bool = False,
) -> dict[str, float]:
    """Relative error of each output of each run against the model's outputs; the worst run.

    Of integers, the share that differs. VerificationError names the first step that is off where
    a run is further from the network's reference than that is from the model, or than 2 %;
    QuantizationError says that an output is no use, unless a metric has judged it (``is_judged``).
    """
    device = torch.device(engine.backend.device)
    placed = [tensor.to(device) for tensor in inputs]
    bound = dict(zip(engine.network.inputs, placed, strict=True))
    reference = run_network(engine.network, bound, device=device)
    errors = {}
    for index, (name, want) in enumerate(zip(engine.network.outputs, expected, strict=True)):
        own = max(_distance(run[index], reference[name]) for run in runs)
        lost = _distance(reference[name], want)
        allowed = max(_FLIPS, lost)
        if own > allowed:
            raise failure(engine, inputs, what, name, own, allowed)
        errors[name] = max(_distance(run[index], want) for run in runs)
        if want.is_floating_point() and not errors[name] <= (_FINITE if is_judged else NONSENSE):
            raise QuantizationError(inputs=what, output=name, error=errors[name], allowed=NONSENSE)
    return errors


def _distance(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative error of floats; of integers, the share that differs."""
    want = want.to(got.device)
    if want.is_floating_point():
        return relative_error(got, want)
    return float((got != want).double().mean()) if want.numel() else 0.0
