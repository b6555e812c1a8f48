"""The weights of a Winograd convolution, transformed and packed; the epilogue's constants."""

from __future__ import annotations

import ctypes
from threading import Thread

import numpy as np

from torch2rt.backends.buffer import address_of, aligned_bytes
from torch2rt.backends.cpu.jit import Machine
from torch2rt.backends.cpu.onednn.openmp import get_threads
from torch2rt.backends.cpu.winograd import kernels
from torch2rt.backends.cpu.winograd.element import rounded_bits, widened
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared, Weights
from torch2rt.network.dtype import Array, DType


def packed_weights(spec: LayerSpec, weights: Weights, m: int, target: Machine) -> Array:
    """The transformed weights of a layer, made once, in numbers of the type that it multiplies."""
    name = spec.constants[1]
    if name is None:
        raise Unprepared("the weights are no constant")
    shape = spec.inputs[1].shape

    def make() -> Array:
        given = weights.array(name).reshape(shape)
        transformed = transformed_weights(widened(given), m, target)
        if spec.inputs[1].dtype is DType.BFLOAT16:
            return paired(transformed, m, shape[1], target)
        return transformed

    packed: Array = weights.packed((name, "winograd", m, target.lanes), make)
    return packed


def transformed_weights(weights: Array, m: int, target: Machine) -> Array:
    """G w GT of weights [k, c, 3, 3]: f32 [matrices, panels of k, c, k in the panel], flat.

    A panel has ``target.columns`` registers of output channels, the last one what is left.
    """
    out_channels, channels = weights.shape[:2]
    source = np.ascontiguousarray(weights, np.float32)
    matrix = channels * out_channels
    packed: Array = aligned_bytes((m + 2) ** 2 * matrix * 4).view(np.float32)
    registers = out_channels // target.lanes
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(kernels.weight_kernel(m, target))

    def transform(share: range) -> None:
        taps = aligned_bytes(9 * target.lanes * 4)
        for register in share:
            panel, column = divmod(register, target.columns)
            first = panel * target.columns
            step = min(target.columns, registers - first) * target.lanes
            place = (first * channels + column) * target.lanes
            run(
                address_of(source) + register * target.lanes * channels * 9 * 4,
                address_of(taps), address_of(packed) + place * 4, channels, matrix, step,
            )

    # The time is that of the system giving out pages of new memory, which goes in parallel.
    threads = get_threads()
    others = [
        Thread(target=transform, args=(range(share, registers, threads),))
        for share in range(1, min(threads, registers))
    ]
    for thread in others:
        thread.start()
    transform(range(0, registers, threads))
    for thread in others:
        thread.join()
    return packed


def paired(transformed: Array, m: int, channels: int, target: Machine) -> Array:
    """`transformed_weights` as bits of bf16, [matrices, panels of k, c / 2, k in the panel, 2]."""
    packed: Array = aligned_bytes(transformed.size * 2).view(np.uint16)
    panel = channels * target.lanes * target.columns
    for source, goal in zip(
        transformed.reshape((m + 2) ** 2, -1), packed.reshape((m + 2) ** 2, -1), strict=True
    ):
        bits = rounded_bits(source)
        whole = bits.size // panel * panel
        for part, count in ((slice(0, whole), whole // panel), (slice(whole, None), 1)):
            if bits[part].size:
                pairs = bits[part].reshape(count, channels // 2, 2, -1)
                goal[part].reshape(count, channels // 2, -1, 2)[:] = pairs.swapaxes(2, 3)
    return packed


def constant_operand(spec: LayerSpec, weights: Weights, index: int) -> Array | None:
    """The f32 numbers of a constant input of the epilogue, None for one with a buffer."""
    name = spec.constants[index]
    if name is None:
        return None
    packed: Array = weights.packed(
        (name, "winograd operand"), lambda: _aligned(widened(weights.array(name)))
    )
    return packed


def _aligned(values: Array) -> Array:
    """A copy that starts at a multiple of 64 bytes."""
    target: Array = aligned_bytes(values.nbytes).view(values.dtype)
    target[:] = values.reshape(-1)
    return target
