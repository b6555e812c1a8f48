"""Pointwise layers that only scale and shift by constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torch2rt import expression as ex
from torch2rt.fusions.rewrite import values_of
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import Array
from torch2rt.network.layer import Layer
from torch2rt.network.tensor import Tensor


@dataclass(frozen=True)
class Affine:
    """x * scale + shift; both in float64, of shapes that broadcast to x."""

    x: Tensor
    scale: Array
    shift: Array


def affine_of(layer: Layer) -> Affine | None:
    """What a pointwise layer does, if it is ``x * scale``, ``x + shift`` or both; else None."""
    if not isinstance(layer.kind, Pointwise):
        return None
    node = layer.kind.expression
    scale: Array | None = np.ones(())
    shift: Array | None = np.zeros(())
    match node:
        case ex.Apply("add", (inner, term)):
            node, shift = inner, _constant(layer, term)
    match node:
        case ex.Apply("mul", (inner, term)):
            node, scale = inner, _constant(layer, term)
    if not isinstance(node, ex.Input) or scale is None or shift is None:
        return None
    x = layer.inputs[node.index]
    return None if x.is_constant or node == layer.kind.expression else Affine(x, scale, shift)


def _constant(layer: Layer, node: ex.Expression) -> Array | None:
    match node:
        case ex.Constant(value):
            return np.asarray(value, np.float64)
        case ex.Input(index):
            tensor = layer.inputs[index]
            return values_of(tensor) if tensor.is_constant and tensor.dtype.is_float else None
    return None
