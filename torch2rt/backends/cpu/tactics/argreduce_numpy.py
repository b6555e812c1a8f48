"""Where the largest or smallest element stands."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import ArrayFunction, NumpyFunction
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.argreduce import ArgReduce
from torch2rt.network.dtype import Array


class ArgReduceDirect(NumpyFunction):
    """numpy.argmax or argmin: the first of equal ones, NaN before all, as in torch."""

    name: ClassVar[str] = "argreduce.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("argreduce",)

    def function(self, spec: LayerSpec) -> ArrayFunction:
        """The function of numpy."""
        kind = spec.kind
        if not isinstance(kind, ArgReduce):
            raise Unprepared(f"{kind.name} is not an argreduce")
        find = np.argmax if kind.mode == "max" else np.argmin
        axis, keepdim = kind.axis, kind.keepdim

        def run(x: Array) -> Array:
            return np.asarray(find(x, axis=axis, keepdims=keepdim))

        return run
