"""Times a whole plan, for choices that concern more than one layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from torch2rt.engine.context import Context, Executable


def time_plan_us(executable: Executable) -> float | None:
    """Time of a run in microseconds, on zeros, which are indices and masks too.

    None where the backend does not time plans as a whole.
    """
    backend = executable.backend
    if not backend.times_runs:
        return None
    context = Context(executable)
    blocks: list[Any] = []
    for (place, name), size_bytes in _binding_bytes(executable).items():
        blocks.append(backend.allocate(size_bytes))
        address = backend.address(blocks[-1])
        backend.upload_bytes(address, np.zeros(size_bytes, np.uint8))
        context.mover(place, name)(address)
    return backend.time_run_us(context.run)


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
