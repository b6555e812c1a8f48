"""Constant operands in device memory, uploaded once, shared by plans; their dtypes converted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torch2rt.backends.cuda.device import Memory, current_device
from torch2rt.backends.cuda.launch import In, Packed
from torch2rt.backends.spec import LayerSpec, Layout
from torch2rt.backends.tactic import Weights
from torch2rt.network.dtype import Array, DType


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


def convert(values: Array, source: DType, target: DType) -> Array:
    """The values as another float dtype, rounded to nearest even; bfloat16 as bits."""
    wide = widen(values, source)
    if target is DType.FLOAT16:
        with np.errstate(over="ignore"):
            return wide.astype(np.float16)
    if target is DType.BFLOAT16:
        bits = wide.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(wide), 0x7FFF, rounded).astype(np.uint16)
    return wide


def widen(values: Array, source: DType) -> Array:
    """The values in float32."""
    if source is DType.BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(values, np.float32)
