"""Rows of a table by index: embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.take import Take
from torch2rt.network.dtype import Array


class TakeRows(NumpyMove):
    """numpy.take into the output; an index out of range raises IndexError, as in torch."""

    name: ClassVar[str] = "take.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("take",)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """numpy.take, which checks the indices before it writes."""
        if not isinstance(spec.kind, Take):
            raise Unprepared(f"{spec.kind.name} is not a take")
        axis = spec.kind.axis

        def move(out: Array, x: Array, index: Array) -> None:
            np.take(x, index, axis, out=out)

        return move
