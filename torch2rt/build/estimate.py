"""Times nobody measured: from the work of a layer and what the device can do."""

from __future__ import annotations

from collections.abc import Sequence

from torch2rt.backends.backend import Backend
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Tactic
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

# Candidates that guess to take so much longer than the best guess are not timed.
HOPELESS = 3.0
# Of a device that nobody measured: 10 GB/s.
_BYTES_PER_US = 1e4
# Part of its peaks that a device usually reaches.
_SHARE = 0.5


def estimate_us(spec: LayerSpec, backend: Backend) -> float:
    """A rough time from bytes and operations: ranks what nobody measured."""
    moved = sum(tensor.size_bytes for tensor in (*spec.inputs, *spec.outputs))
    peaks = backend.peaks()
    if peaks is None:
        return 1.0 + moved / _BYTES_PER_US
    dtype = spec.inputs[0].dtype if spec.inputs else DType.FLOAT32
    flops_per_s = peaks.flops_per_s.get(dtype) or peaks.flops_per_s.get(DType.FLOAT32)
    inputs = [TensorType(tensor.shape, tensor.dtype) for tensor in spec.inputs[: spec.main_count]]
    outputs = [TensorType(tensor.shape, tensor.dtype) for tensor in spec.outputs]
    flops = spec.kind.flops(inputs, outputs)
    computing_s = flops / flops_per_s if flops_per_s else 0.0
    return 1.0 + max(moved / peaks.bytes_per_s, computing_s) * 1e6 / _SHARE


def worth_timing(
    pairs: Sequence[tuple[Tactic, LayoutChoice, LayerSpec]],
) -> list[tuple[Tactic, LayoutChoice, LayerSpec]]:
    """The candidates without those that expect to be much slower than the best.

    The best of each layout choice stays, as reformats may decide; so do those without a guess.
    """
    guesses = [tactic.estimate_us(spec) for tactic, _, spec in pairs]
    known = [guess for guess in guesses if guess is not None]
    if not known:
        return list(pairs)
    best_of_choice: dict[LayoutChoice, float] = {}
    for (_, choice, _), guess in zip(pairs, guesses, strict=True):
        if guess is not None:
            best_of_choice[choice] = min(guess, best_of_choice.get(choice, guess))
    limit_us = HOPELESS * min(known)
    return [
        pair for pair, guess in zip(pairs, guesses, strict=True)
        if guess is None or guess <= limit_us or guess == best_of_choice[pair[1]]
    ]
