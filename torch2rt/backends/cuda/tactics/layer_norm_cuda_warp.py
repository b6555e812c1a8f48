"""Layer norm and RMS norm by our kernel, a warp or part of one per row."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.layer_norms import (
    WARP_THREADS,
    has_whole_rows,
    layer_norm_refusal,
    prepare_layer_norm,
    vectors_of,
    warp_lanes,
)
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.kernels.cuda.layer_norm import MAX_HELD


class WarpLayerNorm(Tactic):
    """The lanes of a warp share a row."""

    name: ClassVar[str] = "layer_norm.cuda.warp"
    kinds: ClassVar[tuple[str, ...]] = ("layer_norm",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, rows that a warp holds in registers."""
        refusal = layer_norm_refusal(spec)
        if refusal is not None:
            return refusal
        vectors, vector = vectors_of(spec)
        if vectors * vector > 32 * MAX_HELD:
            return Refusal(f"rows of {vectors * vector} elements do not fit a warp")
        return None

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Whenever rows are whole."""
        return has_whole_rows(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        return prepare_layer_norm(spec, weights, warp_lanes(spec), WARP_THREADS)
