"""Advanced indexing by numpy, whose rules torch's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.index import Index
from torch2rt.network.dtype import Array


class IndexElements(NumpyMove):
    """Brackets; an index out of range raises IndexError."""

    name: ClassVar[str] = "index.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("index",)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """Index arrays at their axes, everything of the others."""
        if not isinstance(spec.kind, Index):
            raise Unprepared(f"{spec.kind.name} is not an index")
        axes = spec.kind.axes

        def move(out: Array, x: Array, *indices: Array) -> None:
            where: list[Any] = [slice(None)] * (axes[-1] + 1)
            for axis, index in zip(axes, indices, strict=True):
                where[axis] = index
            out[...] = x[tuple(where)]

        return move
