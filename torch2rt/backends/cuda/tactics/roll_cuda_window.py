"""Rolls: a circular window that starts at the shift."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Move
from torch2rt.backends.cuda.cpp.windows import window
from torch2rt.backends.kinds import concrete, kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Weights
from torch2rt.layers.roll import Roll


class RollWindow(Move):
    """A vector per thread."""

    name: ClassVar[str] = "roll.cuda.window"
    kinds: ClassVar[tuple[str, ...]] = ("roll",)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        kind = kind_of(spec, Roll)
        shape = spec.outputs[0].shape
        before = [0] * len(shape)
        for shift, axis in zip(kind.shifts, kind.axes, strict=True):
            before[axis] = (before[axis] + concrete(shift)) % shape[axis]
        return window(spec, weights, before, "circular")
