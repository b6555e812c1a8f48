"""Constant operands in device memory: uploaded once, shared by plans."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torch2rt.backends.cuda.device import Memory, current_device
from torch2rt.backends.cuda.launch import In, Packed
from torch2rt.backends.spec import LayerSpec, Layout
from torch2rt.backends.tactic import Weights
from torch2rt.network.dtype import Array


def operand(spec: LayerSpec, weights: Weights, index: int) -> In | Packed:
    """Input i as an argument: its buffer, or the constant in the layout that the spec says."""
    name = spec.constants[index]
    if name is None:
        return In(index)
    layout = spec.inputs[index].layout

    def pack(array: Array) -> Array:
        return np.moveaxis(array, 1, -1) if layout is Layout.CHANNELS_LAST else array

    return Packed(packed_constant(weights, name, layout.value, pack))


def packed_constant(
    weights: Weights, name: str, form: str, pack: Callable[[Array], Array]
) -> Memory:
    """A constant's packed form in device memory. ``form`` names what ``pack`` makes of it."""

    def make() -> Memory:
        return current_device().upload(np.ascontiguousarray(pack(weights.array(name))))

    memory: Memory = weights.packed(("cuda", name, form), make)
    return memory
