"""Evenly spaced numbers: made once on the host, copied by the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cuda.cpp.moves import Copy, CopyMove, stored
from torch2rt.backends.cuda.device import Memory, current_device
from torch2rt.backends.cuda.launch import Out, Packed
from torch2rt.backends.kinds import concrete, kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.arange import Arange
from torch2rt.network.dtype import Array, DType


class ArangeCopy(CopyMove):
    """The numbers as the reference rounds them."""

    name: ClassVar[str] = "arange.cuda.copy"
    kinds: ClassVar[tuple[str, ...]] = ("arange",)

    def copies(self, spec: LayerSpec, weights: Weights) -> Sequence[Copy]:
        """One, of a constant."""
        kind, output = kind_of(spec, Arange), spec.outputs[0]
        key = ("cuda", "arange", kind, output.dtype)

        def make() -> Memory:
            return current_device().upload(_numbers(kind, output.dtype))

        memory: Memory = weights.packed(key, make)
        axes = (Axis(output.element_count, (1, 1)),)
        return [Copy(Packed(memory), Out(0), axes, output.dtype.itemsize_bytes)]


def _numbers(kind: Arange, dtype: DType) -> Array:
    is_whole = not isinstance(kind.start, float) and not isinstance(kind.step, float)
    position: Any = np.arange(concrete(kind.count), dtype=np.int64 if is_whole else np.float64)
    return stored(position * _number(kind.step) + _number(kind.start), dtype)


def _number(value: Any) -> float | int:
    return value if isinstance(value, float) else int(value)
