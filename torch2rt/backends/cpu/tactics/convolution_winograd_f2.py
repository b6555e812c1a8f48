"""Convolution by Winograd's F(2 x 2, 3 x 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.winograd import plan
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class WinogradConvolution2(Tactic):
    """16 products for 4 outputs: 4/9 of the multiplications, 16/9 of the weights."""

    name: ClassVar[str] = "convolution.winograd.f2"
    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """3 x 3 windows at stride 1 over float32 or bfloat16, whole vectors of channels."""
        return plan.refusal(spec, 2)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last, and blocked."""
        return plan.layouts(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the kernels, transform the weights."""
        return plan.prepare(spec, weights, 2)
