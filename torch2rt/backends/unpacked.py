"""Layers with weights stored in 8 bits as layers of float weights, for tactics that want those.

The weights in the engine file stay small; those that a plan works with are float again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Job, Weights
from torch2rt.network.dtype import Array, DType


def unpacked_spec(spec: LayerSpec) -> LayerSpec:
    """The same layer with its second operand in the dtype of the first."""
    a, b, *others = spec.inputs
    return replace(spec, inputs=(a, replace(b, dtype=a.dtype), *others))


class UnpackedWeights(Weights):
    """The weights of a layer, of which the constant ``name`` is whole numbers in a float dtype.

    Those between -128 and 127 are exact in every float.
    """

    def __init__(self, weights: Weights, name: str, dtype: DType) -> None:
        self._weights = weights
        self._name = name
        self._dtype = dtype

    def array(self, name: str) -> Array:
        """A constant's data; bits where numpy has no such dtype."""
        array = self._weights.array(name)
        if name != self._name:
            return array
        if self._dtype is DType.BFLOAT16:
            return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return array.astype(self._dtype.numpy)

    def packed(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Packed forms of what is unpacked have keys of their own; others are shared."""
        is_own = self._name in key
        return self._weights.packed(("unpacked", self._dtype, *key) if is_own else key, make)

    def blob(self, key: str, job: Job) -> bytes:
        """Those of the engine: a key says what the code depends on."""
        return self._weights.blob(key, job)
