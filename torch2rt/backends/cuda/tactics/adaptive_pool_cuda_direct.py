"""Adaptive pooling by our kernel, channels innermost or row-major."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.pools import pool_problem, prepare_pool
from torch2rt.backends.cuda.cpp.walks import epilogue_refusal, image_choice
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.adaptive_pool import AdaptivePool


class DirectAdaptivePool(Tactic):
    """One thread per output and vector of channels."""

    name: ClassVar[str] = "adaptive_pool.cuda.direct"
    kinds: ClassVar[tuple[str, ...]] = ("adaptive_pool",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Every dtype but float8; a mean of floats."""
        if _kind(spec).mode == "mean" and not spec.inputs[0].dtype.is_float:
            return Refusal("a mean of integers")
        return epilogue_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels innermost in images."""
        return [image_choice(spec)]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Always: strides are constants of the source."""
        return True

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        return prepare_pool(spec, weights, pool_problem(spec, _kind(spec).mode, None, 0))


def _kind(spec: LayerSpec) -> AdaptivePool:
    if not isinstance(spec.kind, AdaptivePool):
        raise Unprepared(f"{spec.kind.name} is not an adaptive pooling")
    return spec.kind
