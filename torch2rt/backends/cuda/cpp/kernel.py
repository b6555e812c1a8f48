"""Kernels written in CUDA C++: source text to a loaded kernel, through the engine's blobs.

Kernel sources stand in `torch2rt.kernels.cuda`, one file per kernel, and start with the prelude
of `torch2rt.kernels.cuda.prelude`.
"""

from __future__ import annotations

import hashlib

from torch2rt.backends.cuda.device import Kernel, current_device
from torch2rt.backends.tactic import Weights


def cpp_kernel(weights: Weights, name: str, source: str, shared_bytes: int = 0) -> Kernel:
    """The kernel ``extern "C" __global__ void name(...)`` of a source, compiled once.

    ``shared_bytes``: dynamic shared memory its launches ask for. Unprepared when the compiler
    refuses.
    """
    device = current_device()
    digest = hashlib.sha256(source.encode()).hexdigest()[:32]
    key = f"cuda/{device.arch}/{name}/{digest}"
    image = weights.blob(key, device.compile_cpp(source, name))
    kernel: Kernel = weights.packed(
        ("kernel", key, shared_bytes), lambda: device.load(image, name, shared_bytes)
    )
    return kernel
