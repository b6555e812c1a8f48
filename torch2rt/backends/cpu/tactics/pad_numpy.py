"""Padding by numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_expression import narrow_bfloat16
from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.kinds import concrete
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.layers.pad import Pad
from torch2rt.network.dtype import Array, DType

_MODES = {"replicate": "edge", "reflect": "reflect", "circular": "wrap"}


class PadCopy(NumpyMove):
    """Fill and copy for a constant, numpy.pad for the other modes."""

    name: ClassVar[str] = "pad.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("pad",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every dtype but a float8 other than zero."""
        if spec.outputs[0].dtype is DType.FLOAT8_E4M3 and pad_kind(spec).value:
            return Refusal("numpy has no float8")
        return super().supports(spec)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """The function for the mode."""
        kind = pad_kind(spec)
        before = [concrete(count) for count in kind.before]
        after = [concrete(count) for count in kind.after]
        if kind.mode != "constant":
            widths = list(zip(before, after, strict=True))
            mode: Any = _MODES[kind.mode]

            def extend(out: Array, x: Array) -> None:
                out[...] = np.pad(x, widths, mode)

            return extend
        window = tuple(
            slice(first, first + size)
            for first, size in zip(before, spec.inputs[0].shape, strict=True)
        )
        value = stored_value(kind.value, spec.outputs[0].dtype)

        def fill(out: Array, x: Array) -> None:
            out[...] = value
            out[window] = x

        return fill


def pad_kind(spec: LayerSpec) -> Pad:
    """The layer's kind."""
    if not isinstance(spec.kind, Pad):
        raise Unprepared(f"{spec.kind.name} is not a pad")
    return spec.kind


def stored_value(value: float, dtype: DType) -> Any:
    """A number as an array of ``dtype`` stores it."""
    if dtype is DType.BFLOAT16:
        return narrow_bfloat16(np.float32(value))
    return np.asarray(value).astype(dtype.numpy)
