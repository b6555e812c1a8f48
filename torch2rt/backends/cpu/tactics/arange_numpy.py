"""Evenly spaced numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import ArrayFunction, NumpyFunction
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.arange import Arange


class ArangeValues(NumpyFunction):
    """The numbers, made once and copied."""

    name: ClassVar[str] = "arange.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("arange",)

    def function(self, spec: LayerSpec) -> ArrayFunction:
        """A function of nothing."""
        kind = spec.kind
        if not isinstance(kind, Arange):
            raise Unprepared(f"{kind.name} is not an arange")
        is_whole = not isinstance(kind.start, float) and not isinstance(kind.step, float)
        position: Any = np.arange(concrete(kind.count), dtype=np.int64 if is_whole else np.float64)
        start, step = _number(kind.start), _number(kind.step)
        values = position * step + start
        return lambda: values


def _number(value: Any) -> float | int:
    return value if isinstance(value, float) else int(value)
