"""Sizes in attributes: at prepare every symbol has its value."""

from __future__ import annotations

from torch2rt.network.dim import Dim


def concrete(dim: Dim) -> int:
    """A size of a specialised kind. TypeError if it still has symbols."""
    if not isinstance(dim, int):
        raise TypeError(f"size {dim} has no value yet")
    return dim
