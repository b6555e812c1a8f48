"""Max and mean pooling by our kernel, channels innermost or row-major."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.pools import pool_problem, prepare_pool
from torch2rt.backends.cuda.cpp.walks import epilogue_refusal, image_choice
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda.pool import Window
from torch2rt.layers.pool import Pool


class DirectPool(Tactic):
    """One thread per tile of outputs and vector of channels."""

    name: ClassVar[str] = "pool.cuda.direct"
    kinds: ClassVar[tuple[str, ...]] = ("pool",)

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
        """One launch; large outputs of overlapping windows in tiles of 2 x 2."""
        kind = _kind(spec)
        lead = 3 - len(kind.kernel)
        ones, zeros = (1,) * lead, (0,) * lead
        window = Window(
            (*ones, *kind.kernel), (*ones, *kind.stride), (*zeros, *kind.padding_before),
            (*ones, *kind.dilation), kind.count_padding,
        )
        problem = pool_problem(spec, kind.mode, window, current_device().multiprocessors)
        return prepare_pool(spec, weights, problem)


def _kind(spec: LayerSpec) -> Pool:
    if not isinstance(spec.kind, Pool):
        raise Unprepared(f"{spec.kind.name} is not a pooling")
    return spec.kind
