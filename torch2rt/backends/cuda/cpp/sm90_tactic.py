"""What the tactics of kernels/cuda/sm90_product.py share: one tactic per width of tiles."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch2rt.backends.cuda.cpp.sm90_products import (
    Problem,
    epilogue_refusal,
    estimate_us,
    prepare_problem,
)
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights


class WgmmaTactic(Tactic):
    """Products on Hopper's tensor cores by tiles of 128 x ``width``, two of a block in turn."""

    width: ClassVar[int]

    @abc.abstractmethod
    def problem(self, spec: LayerSpec) -> Problem | Refusal:
        """What the kernel is to compute for a layer whose layouts are chosen."""

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Rows may lie in wider tensors."""
        return not isinstance(self.problem(spec), Refusal)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Constant weights, 16 or 8 bits, sizes that fill tiles."""
        if current_device().capability != (9, 0):
            return Refusal("wgmma needs sm_90")
        refusal = epilogue_refusal(spec)
        if refusal is not None:
            return refusal
        problem = self.problem(spec.with_layouts(self.layouts(spec)[0]))
        return problem if isinstance(problem, Refusal) else None

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """The model's time."""
        problem = self.problem(spec)
        return None if isinstance(problem, Refusal) else estimate_us(problem, self.width)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack weights, compile, bind."""
        problem = self.problem(spec)
        if isinstance(problem, Refusal):
            raise Unprepared(problem.reason)
        return prepare_problem(spec, weights, problem, self.width)
