"""Rolls by numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.roll import Roll
from torch2rt.network.dtype import Array


class RollCopy(NumpyMove):
    """numpy.roll."""

    name: ClassVar[str] = "roll.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("roll",)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """numpy.roll, then a copy."""
        kind = spec.kind
        if not isinstance(kind, Roll):
            raise Unprepared(f"{kind.name} is not a roll")
        shifts, axes = tuple(concrete(shift) for shift in kind.shifts), kind.axes

        def move(out: Array, x: Array) -> None:
            out[...] = np.roll(x, shifts, axes)

        return move
