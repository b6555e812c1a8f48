"""Writing to indexed places of a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.cpu.numpy_tactic import NumpyMove
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal, Unprepared
from torch2rt.layers.index_put import IndexPut
from torch2rt.network.dtype import Array


class IndexPutElements(NumpyMove):
    """A copy, then an assignment in brackets, or numpy.add.at."""

    name: ClassVar[str] = "index_put.numpy.direct"
    kinds: ClassVar[tuple[str, ...]] = ("index_put",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Sums only of dtypes that numpy adds as torch does."""
        if _kind(spec).accumulate and spec.outputs[0].dtype.is_low_precision:
            return Refusal(f"numpy does not add up {spec.outputs[0].dtype.value} as torch does")
        return super().supports(spec)

    def move(self, spec: LayerSpec) -> Callable[..., None]:
        """Copy, then write."""
        kind = _kind(spec)

        def move(out: Array, x: Array, values: Array, *indices: Array) -> None:
            where: list[Any] = [slice(None)] * (kind.axes[-1] + 1)
            for axis, index in zip(kind.axes, indices, strict=True):
                where[axis] = index
            out[...] = x
            if kind.accumulate:
                np.add.at(out, tuple(where), values)
            else:
                out[tuple(where)] = values

        return move


def _kind(spec: LayerSpec) -> IndexPut:
    if not isinstance(spec.kind, IndexPut):
        raise Unprepared(f"{spec.kind.name} is not an index_put")
    return spec.kind
