"""Times whole plans, for choices that concern more than one layer."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from torch2rt.engine.context import Context, Executable
from torch2rt.network.dtype import DType

# Times that each of two plans is measured, in turns.
_TURNS = 3
# Numbers that inputs repeat.
_PERIOD = 1 << 16


def time_plan_us(executable: Executable) -> float | None:
    """Time of a run in microseconds, on inputs as `_example` makes them.

    None where the backend does not time plans as a whole.
    """
    if not executable.backend.times_runs:
        return None
    context, _blocks = _bound(executable)
    return executable.backend.time_run_us(context.run)


def race_plans_us(challenger: Executable, holder: Executable) -> tuple[float, float]:
    """Times of a run of both in microseconds, measured in turns, on a backend that times plans.

    The race is over as soon as the challenger is behind.
    """
    time_us = holder.backend.time_run_us
    (first, _blocks), (second, _others) = _bound(challenger), _bound(holder)
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[0]) < _TURNS:
        times[0].append(time_us(first.run))
        times[1].append(time_us(second.run))
        medians = statistics.median(times[0]), statistics.median(times[1])
        if medians[0] > medians[1]:
            break
    return medians


def _bound(executable: Executable) -> tuple[Context, list[Any]]:
    """A context with memory for its inputs and outputs, which goes with the list."""
    backend = executable.backend
    context = Context(executable)
    blocks: list[Any] = []
    for (place, name), (size_bytes, dtype) in _bindings(executable).items():
        blocks.append(backend.allocate(size_bytes))
        address = backend.address(blocks[-1])
        backend.upload_bytes(address, _example(size_bytes, dtype))
        context.mover(place, name)(address)
    return context, blocks


def _bindings(executable: Executable) -> dict[tuple[str, str], tuple[int, DType]]:
    """Bytes and dtype of every input and output of the plan."""
    found: dict[tuple[str, str], tuple[int, DType]] = {}
    for tensor in executable.plan.tensors:
        storage = tensor.storage
        if storage.place in ("input", "output"):
            key = (storage.place, storage.name)
            end = storage.offset_bytes + tensor.spec.extent_bytes
            size_bytes, dtype = found.get(key, (0, tensor.spec.dtype))
            found[key] = max(size_bytes, end), dtype
    return found


def _example(size_bytes: int, dtype: DType) -> Any:
    """Normal random numbers where these are floats of 2 or 4 bytes: a GPU's clock depends on bits.

    Else zeros, which are indices and masks too.
    """
    if dtype not in (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16):
        return np.zeros(size_bytes, np.uint8)
    numbers = np.random.default_rng(0).standard_normal(_PERIOD).astype(np.float32)
    if dtype is DType.FLOAT16:
        some = numbers.astype(np.float16).view(np.uint8)
    elif dtype is DType.BFLOAT16:
        some = (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    else:
        some = numbers.view(np.uint8)
    return np.resize(some, size_bytes)
