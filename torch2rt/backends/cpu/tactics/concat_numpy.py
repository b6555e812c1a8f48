"""Concats by numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.concat import Concat
from torch2rt.network.dtype import Array


class ConcatCopy(NumpyMove):
    """numpy.concatenate into the output."""

    name: ClassVar[str] = "concat.numpy.copy"
    kinds: ClassVar[tuple[str, ...]] = ("concat",)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """numpy.concatenate."""
        axis = concat_axis(spec)

        def move(out: Array, *inputs: Array) -> None:
            np.concatenate(inputs, axis, out=out)

        return move


def concat_axis(spec: LayerSpec) -> int:
    """The layer's axis."""
    if not isinstance(spec.kind, Concat):
        raise Unprepared(f"{spec.kind.name} is not a concat")
    return spec.kind.axis
