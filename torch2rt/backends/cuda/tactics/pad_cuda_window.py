"""Padding of every mode, by looking up each output's place in the input."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Move, pattern_of
from torch2rt.backends.cuda.cpp.windows import window
from torch2rt.backends.kinds import concrete, kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.layers.pad import Pad
from torch2rt.network.dtype import DType


class PadWindow(Move):
    """A vector per thread; channels-last pads of the space move whole vectors of channels."""

    name: ClassVar[str] = "pad.cuda.window"
    kinds: ClassVar[tuple[str, ...]] = ("pad",)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """A float8 constant other than 0 has no bits here."""
        if spec.outputs[0].dtype is DType.FLOAT8_E4M3 and kind_of(spec, Pad).value:
            return Refusal("float8 constants other than 0")
        return None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        kind = kind_of(spec, Pad)
        before = [concrete(number) for number in kind.before]
        value = pattern_of(kind.value, spec.outputs[0].dtype)
        return window(spec, weights, before, kind.mode, value)
