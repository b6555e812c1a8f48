"""Layer norm and RMS norm by our kernel, a block per row."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.layer_norms import (
    block_lanes,
    has_whole_rows,
    layer_norm_refusal,
    prepare_layer_norm,
    vectors_of,
)
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights

_MIN_VECTORS = 64


class BlockLayerNorm(Tactic):
    """The threads of a block share a row."""

    name: ClassVar[str] = "layer_norm.cuda.block"
    kinds: ClassVar[tuple[str, ...]] = ("layer_norm",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, rows with work for two warps or more."""
        refusal = layer_norm_refusal(spec)
        if refusal is not None:
            return refusal
        if vectors_of(spec)[0] < _MIN_VECTORS:
            return Refusal("rows shorter than two warps of vectors")
        return None

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Whenever rows are whole."""
        return has_whole_rows(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        lanes = block_lanes(spec)
        return prepare_layer_norm(spec, weights, lanes, lanes)
