"""A scale and a shift after a layer norm are its weight and bias."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torch2rt.fusions.affine import Affine, affine_of
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import add_constant, replace_layer
from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.network.dtype import Array
from torch2rt.network.layer import Layer
from torch2rt.network.network import Network
from torch2rt.passes.base import Reject


@dataclass(frozen=True)
class ScaledNorm:
    """A layer norm without weights and the pointwise layer after it."""

    norm: Layer
    pointwise: Layer
    affine: Affine


class AffineIntoNorm(Fusion[ScaledNorm]):
    """A layer norm takes the affine map behind it.

    Before: %n = layer_norm(%x)   %y = pointwise(%n, @w[c], @b[c]) add(mul(i0,i1),i2)
    After:  %y = layer_norm(%x, @w[c], @b[c]) {"has_weight": true, "has_bias": true}
    Fires when the norm has no weights yet and the pointwise layer alone reads it.
    Refuses factors that vary along other axes than the normalised ones, and a change of dtype.
    """

    name: ClassVar[str] = "affine_into_norm"
    equation: ClassVar[str] = "norm(x) * w + b = norm(x, w, b)"
    priority: ClassVar[int] = 38

    def match(self, network: Network, layer: Layer) -> ScaledNorm | None:
        """An affine pointwise layer after a layer norm without weights."""
        affine = affine_of(layer)
        norm = None if affine is None else affine.x.producer
        if affine is None or norm is None or not isinstance(norm.kind, LayerNorm):
            return None
        if norm.kind.has_weight or norm.kind.has_bias or norm.epilogue is not None:
            return None
        return ScaledNorm(norm, layer, affine)

    def check(self, network: Network, match: ScaledNorm) -> Reject | None:
        """One reader, one type, and weights of the normalised axes."""
        norm, pointwise = match.norm, match.pointwise
        if network.only_user(norm.output) is not pointwise:
            return Reject(f"{norm.output.name} has other readers", norm.name)
        if norm.output.type != pointwise.output.type:
            return Reject(f"the result becomes {pointwise.output.type}", norm.name)
        if _weights(match) is None:
            return Reject("the factors do not fit the normalised axes", norm.name)
        return None

    def rewrite(self, network: Network, match: ScaledNorm) -> Layer:
        """A layer norm with weights in the place of the pointwise layer."""
        norm = match.norm
        assert isinstance(norm.kind, LayerNorm)
        weights = _weights(match)
        assert weights is not None
        names = ("weight", "bias")
        constants = {
            name: add_constant(network, f"{norm.name}.{name}", values, norm.output.dtype)
            for name, values, neutral in zip(names, weights, (1, 0), strict=True)
            if np.any(values != neutral)
        }
        kind = dataclasses.replace(
            norm.kind, has_weight="weight" in constants, has_bias="bias" in constants
        )
        return replace_layer(
            network, match.pointwise, kind, (*norm.inputs, *constants.values()),
            absorbed=(norm,), named_after=norm,
        )


def _weights(match: ScaledNorm) -> tuple[Array, Array] | None:
    """Weight and bias of the shape of the normalised axes."""
    kind = match.norm.kind
    assert isinstance(kind, LayerNorm)
    sizes = match.norm.output.shape[-kind.axis_count :]
    values = (match.affine.scale, match.affine.shift)
    for array in values:
        leading = array.shape[: -kind.axis_count]
        if not all(isinstance(size, int) for size in sizes) or any(n != 1 for n in leading):
            return None
    shape = tuple(int(size) for size in sizes if isinstance(size, int))
    flat = (array.reshape(array.shape[-kind.axis_count :]) for array in values)
    scale, shift = (np.broadcast_to(array, shape) for array in flat)
    return scale, shift
