"""Tensors of one value."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import ArrayFunction, NumpyFunction
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.fill import Fill


class FillValue(NumpyFunction):
    """The value, broadcast into the output."""

    name: ClassVar[str] = "fill.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("fill",)

    def function(self, spec: LayerSpec) -> ArrayFunction:
        """A function of nothing."""
        if not isinstance(spec.kind, Fill):
            raise Unprepared(f"{spec.kind.name} is not a fill")
        value: Any = spec.kind.value
        stored = np.asarray(value if isinstance(value, float | bool) else int(value))
        return lambda: stored
