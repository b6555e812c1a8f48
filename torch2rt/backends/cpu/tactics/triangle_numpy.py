"""Triangles by numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.triangle import Triangle
from torch2rt.network.dtype import Array


class TriangleMask(NumpyMove):
    """Zero where a mask made once says so; zero bits are 0 in every dtype."""

    name: ClassVar[str] = "triangle.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("triangle",)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """Fill with zeros, copy where the mask is true."""
        kind = spec.kind
        if not isinstance(kind, Triangle):
            raise Unprepared(f"{kind.name} is not a triangle")
        rows, columns = spec.outputs[0].shape[-2:]
        distance = np.arange(columns) - np.arange(rows)[:, None]
        kept = distance >= kind.diagonal if kind.upper else distance <= kind.diagonal

        def move(out: Array, x: Array) -> None:
            out[...] = 0
            np.copyto(out, x, where=kept)

        return move
