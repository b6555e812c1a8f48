"""Runs one kernel by itself, on the device that the fixture ``cuda_device`` says."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from cuda_testing import device_under_test

from torch2rt.backends.cuda.device import Dim3, preparing_for
from torch2rt.backends.cuda.launch import KernelCall, Launch


def run_kernel(
    source: str, name: str, grid: Dim3, block: Dim3, arguments: Sequence[np.ndarray | int | float],
    *, shared_bytes: int = 0, overlaps: bool = False,
) -> list[Any]:
    """Compile and launch it; the arguments afterwards. Arrays are pointers to their elements.

    ints are 32-bit and floats single precision.
    """
    tested = device_under_test()
    with preparing_for(tested.device):
        image = tested.device.compile_cpp(source, name).run()
        kernel = tested.device.load(image, name, shared_bytes)
    arenas, values = [], []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            arena = tested.arena(argument.nbytes)
            arena.raw[: argument.nbytes] = np.ascontiguousarray(argument).reshape(-1).view(np.uint8)
            arena.push()
            arenas.append(arena)
            values.append(ctypes.c_uint64(arena.address))
        else:
            arenas.append(None)
            number = ctypes.c_int32 if isinstance(argument, int) else ctypes.c_float
            values.append(number(argument))
    call = KernelCall(
        Launch(kernel, grid, block, (), shared_bytes, overlaps), (), (), 0, tested.stream()
    )
    call.parameters = (ctypes.c_void_p * max(len(values), 1))(
        *[ctypes.addressof(value) for value in values]
    )
    tested.run([(call, ())])
    results = []
    for argument, arena in zip(arguments, arenas, strict=True):
        if arena is None or not isinstance(argument, np.ndarray):
            results.append(argument)
            continue
        arena.pull()
        raw = arena.raw[: argument.nbytes]
        results.append(raw.view(argument.dtype).reshape(argument.shape).copy())
    return results
