"""Repeats along axes by numpy."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.numpy_tactic import ArrayView, NumpyView
from torch2rt.backends.spec import LayerSpec


class ExpandCopy(NumpyView):
    """A copy that broadcasts."""

    name: ClassVar[str] = "expand.numpy.copy"
    kinds: ClassVar[tuple[str, ...]] = ("expand",)

    def view(self, spec: LayerSpec) -> ArrayView:
        """The input itself: the copy broadcasts it."""
        return lambda array: array
