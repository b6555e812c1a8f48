"""Kinds at concrete sizes: symbolic dims in attributes replaced by integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch2rt.network.dim import SymbolicDim, substitute
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import TensorType


def specialize_kind(kind: LayerKind, symbols: Mapping[str, int]) -> LayerKind:
    """The kind with every symbolic dim of its attributes replaced."""
    if not symbols:
        return kind
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        old = getattr(kind, field.name)
        new = _specialize(old, symbols)
        if new != old:
            changes[field.name] = new
    return dataclasses.replace(kind, **changes) if changes else kind


def specialize_type(type: TensorType, symbols: Mapping[str, int]) -> TensorType:
    """The tensor type with every symbolic dim replaced."""
    return TensorType(tuple(substitute(dim, symbols) for dim in type.shape), type.dtype)


def _specialize(value: Any, symbols: Mapping[str, int]) -> Any:
    match value:
        case SymbolicDim():
            return substitute(value, symbols)
        case TensorType():
            return specialize_type(value, symbols)
        case tuple():
            return tuple(_specialize(item, symbols) for item in value)
    return value
