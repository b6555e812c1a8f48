"""Guesses of our convolutions' times, to leave out the hopeless before they are compiled."""

from __future__ import annotations

import math

from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.spec import LayerSpec

# What one multiprocessor of sm_90 gets per microsecond: bytes of memory, multiply-adds on the
# ordinary units and on the tensor cores.
MEMORY_BYTES = 30e3
MULTIPLIES = 150e3
TENSOR_MULTIPLIES = 2e6
# Launch, first loads, last stores.
START_US = 1.6


def moved_us(spec: LayerSpec) -> float:
    """Every operand once."""
    moved = sum(tensor.size_bytes for tensor in (*spec.inputs, *spec.outputs))
    return moved / (MEMORY_BYTES * current_device().multiprocessors)


def multiplied_us(spec: LayerSpec, rate: float, waste: float = 1.0) -> float:
    """All multiply-adds, at a rate per multiprocessor."""
    filters = spec.outputs[0].shape[1]
    taps = spec.inputs[1].element_count // filters
    count = taps * math.prod(spec.outputs[0].shape) * waste
    return count / (rate * current_device().multiprocessors)
