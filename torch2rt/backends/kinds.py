"""Attributes of a layer's kind, as tactics read them."""

from __future__ import annotations

from typing import TypeVar

from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind

Kind = TypeVar("Kind", bound=LayerKind)


def kind_of(spec: LayerSpec, cls: type[Kind]) -> Kind:
    """The layer's kind as the class that the tactic is for."""
    if not isinstance(spec.kind, cls):
        raise Unprepared(f"{spec.name}: {spec.kind.name} is not a {cls.name}")
    return spec.kind


def concrete(dim: Dim) -> int:
    """A size of a specialised kind. TypeError if it still has symbols."""
    if not isinstance(dim, int):
        raise TypeError(f"size {dim} has no value yet")
    return dim
