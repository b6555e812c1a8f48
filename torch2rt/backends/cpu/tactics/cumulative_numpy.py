"""Running sums, products and log-sum-exps."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import ArrayFunction, NumpyFunction
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.cumulative import Cumulative

_FUNCTIONS = {"sum": np.add, "prod": np.multiply, "logsumexp": np.logaddexp}


class CumulativeDirect(NumpyFunction):
    """numpy's accumulate, in the dtype of the values."""

    name: ClassVar[str] = "cumulative.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("cumulative",)

    def function(self, spec: LayerSpec) -> ArrayFunction:
        """The ufunc's accumulate."""
        kind = spec.kind
        if not isinstance(kind, Cumulative):
            raise Unprepared(f"{kind.name} is not a running {kind}")
        function, axis = _FUNCTIONS[kind.mode], kind.axis

        def run(x: Any) -> Any:
            return function.accumulate(x, axis=axis, dtype=x.dtype)

        return run
