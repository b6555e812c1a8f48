"""Weights and other constants in the order the kernel reads them."""

from __future__ import annotations

import numpy as np

from torch2rt.backends.buffer import aligned_bytes
from torch2rt.backends.cpu.vnni.copy import flat_rows, has_flat_rows
from torch2rt.backends.cpu.vnni.epilogue import PANEL, interleaved
from torch2rt.backends.cpu.vnni.kernel import LANES
from torch2rt.backends.pages import paged_bytes
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Weights
from torch2rt.network.dtype import Array, DType


def packed_weights(
    spec: LayerSpec, weights: Weights, vectors: int, is_interleaved: bool
) -> Array:
    """Weights [k, c, r, s] as [panels, r, s, c / 4, vectors, 16, 4], the last panel narrower.

    Of whole panels the channels may be in the order of `interleaved`.
    """
    name = spec.constants[1]
    assert name is not None
    is_flat = has_flat_rows(spec)

    def make() -> Array:
        values = weights.array(name).reshape(spec.inputs[1].shape)
        return pack(_ordered(flat_rows(values) if is_flat else values, is_interleaved), vectors)

    packed: Array = weights.packed((name, "vnni weights", vectors, is_interleaved), make)
    return packed


def start_of_sums(spec: LayerSpec, weights: Weights, is_interleaved: bool) -> Array | None:
    """Minus 128 times the sum of each output channel's weights, int32; None of unsigned input."""
    name = spec.constants[1]
    assert name is not None
    if spec.inputs[0].dtype is DType.UINT8:
        return None

    def make() -> Array:
        values = weights.array(name).reshape(spec.inputs[1].shape)
        sums = values.sum(axis=(1, 2, 3), dtype=np.int64) * -128
        return _aligned(_ordered(sums.astype(np.int32), is_interleaved))

    packed: Array = weights.packed((name, "vnni start", is_interleaved), make)
    return packed


def pack(values: Array, vectors: int) -> Array:
    """The packed form of an array of int8, see `packed_weights`."""
    k, c, r, s = values.shape
    target: Array = paged_bytes(values.size).view(np.int8)
    whole = k // (LANES * vectors) * LANES * vectors
    start = 0
    for part, width in ((values[:whole], vectors), (values[whole:], (k - whole) // LANES)):
        if part.size:
            blocks = part.reshape(-1, width, LANES, c // 4, 4, r, s)
            target[start : start + part.size].reshape(-1, r, s, c // 4, width, LANES, 4)[:] = (
                blocks.transpose(0, 5, 6, 3, 1, 2, 4)
            )
            start += part.size
    return target


def constant_operand(
    spec: LayerSpec, weights: Weights, index: int, is_interleaved: bool
) -> Array | None:
    """The numbers of a constant input of the epilogue, None for one with a buffer."""
    name = spec.constants[index]
    if name is None:
        return None
    if spec.inputs[index].element_count == 1:
        is_interleaved = False
    packed: Array = weights.packed(
        (name, "vnni operand", is_interleaved),
        lambda: _aligned(_ordered(weights.array(name).reshape(-1), is_interleaved)),
    )
    return packed


def _ordered(values: Array, is_interleaved: bool) -> Array:
    """Values [k, ...] with the channels of whole panels in the order of `interleaved`."""
    whole = len(values) // PANEL * PANEL
    if not is_interleaved:
        return values
    return np.concatenate([interleaved(values[:whole]), values[whole:]])


def _aligned(values: Array) -> Array:
    """A copy that starts at a multiple of 64 bytes."""
    target: Array = aligned_bytes(values.nbytes).view(values.dtype)
    target[:] = values.reshape(-1)
    return target
