"""Transposes by numpy."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.numpy_tactic import ArrayView, NumpyView
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.transpose import Transpose


class TransposeCopy(NumpyView):
    """A copy of the transposed view."""

    name: ClassVar[str] = "transpose.numpy.copy"
    kinds: ClassVar[tuple[str, ...]] = ("transpose",)

    def view(self, spec: LayerSpec) -> ArrayView:
        """numpy.transpose."""
        permutation = permutation_of(spec)
        return lambda array: array.transpose(permutation)


def permutation_of(spec: LayerSpec) -> tuple[int, ...]:
    """The layer's permutation."""
    if not isinstance(spec.kind, Transpose):
        raise Unprepared(f"{spec.kind.name} is not a transpose")
    return spec.kind.permutation
