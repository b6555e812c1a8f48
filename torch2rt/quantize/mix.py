"""A mix of precisions: which layers get 8 bits, of those that can, which 8, and what others get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch2rt.network.layer import Layer
from torch2rt.network.tensor import Tensor

INT8 = "int8"
# Linear layers in float8 (E4M3).
FP8 = "fp8"
# Weights of linear layers in 8 bits, everything else in float.
INT8_WEIGHTS = "int8_weights"
# What needs the ranges of tensors.
RANGED = (INT8, FP8)
# What layers compute in that 8 bits are not for, unless somebody asks for a 16-bit float.
USUAL_FLOAT = {"cuda": "fp16", "cpu": "fp32"}


@dataclass(frozen=True, slots=True)
class Mix:
    """``layers`` get 8 bits, by their names in the calibrated network; None: all that can.

    ``beside`` is the precision of the others; None: the backend's usual one. ``precision`` says
    what the 8 bits are; None: what the conversion asks for.
    """

    layers: frozenset[str] | None = None
    beside: str | None = None
    precision: str | None = None

    def overriding(
        self, precision_of: Callable[[Layer], str], other: str
    ) -> Callable[[Layer], str]:
        """The precision by layer, where layers left out have another than 8 bits."""

        def precision(layer: Layer) -> str:
            found = precision_of(layer)
            is_left_out = self.layers is not None and layer.name not in self.layers
            return other if found in RANGED and is_left_out else found

        return precision


ALL_LAYERS = Mix()


def residuals(layer: Layer) -> list[Tensor]:
    """The tensors of the shape of its result that a contraction's epilogue reads."""
    return [
        tensor for tensor in layer.epilogue_inputs
        if not tensor.is_constant and tensor.shape == layer.outputs[0].shape
    ]
