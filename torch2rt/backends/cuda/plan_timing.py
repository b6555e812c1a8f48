"""Times a whole plan, for choices that concern more than one layer."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import cupy
import numpy as np

from torch2rt.backends.backend import Backend
from torch2rt.engine.context import Context, Executable

if TYPE_CHECKING:
    from torch2rt.backends.cuda.device import Memory

_WARM_UP = 3
_ROUNDS = 20


def time_plan_us(backend: Backend, executable: Executable) -> float:
    """Median time of a run in microseconds, on zeros, which are indices and masks too."""
    context = Context(executable)
    blocks: list[Memory] = []
    for (place, name), size_bytes in _binding_bytes(executable).items():
        block = backend.allocate(size_bytes)
        backend.upload_bytes(block.address, np.zeros(size_bytes, np.uint8))
        blocks.append(block)
        context.mover(place, name)(block.address)
    stream = cupy.cuda.Stream(non_blocking=True)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    samples = []
    for round_index in range(_WARM_UP + _ROUNDS):
        start.record(stream)
        context.run(stream.ptr)
        end.record(stream)
        end.synchronize()
        if round_index >= _WARM_UP:
            samples.append(float(cupy.cuda.get_elapsed_time(start, end)) * 1e3)
    return statistics.median(samples)


def _binding_bytes(executable: Executable) -> dict[tuple[str, str], int]:
    """Bytes of every input and output of the plan."""
    sizes: dict[tuple[str, str], int] = {}
    for tensor in executable.plan.tensors:
        storage = tensor.storage
        if storage.place in ("input", "output"):
            key = (storage.place, storage.name)
            end = storage.offset_bytes + tensor.spec.extent_bytes
            sizes[key] = max(sizes.get(key, 0), end)
    return sizes
