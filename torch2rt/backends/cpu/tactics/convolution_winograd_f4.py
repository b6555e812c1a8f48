"""Convolution by Winograd's F(4 x 4, 3 x 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.winograd import plan
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class WinogradConvolution4(Tactic):
    """36 products for 16 outputs: a quarter of the multiplications, four times the weights."""

    name: ClassVar[str] = "convolution.winograd.f4"
    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """3 x 3 windows at stride 1 over float32, whole vectors of channels."""
        return plan.refusal(spec, 4)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last, and blocked."""
        return plan.layouts(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the kernels, transform the weights."""
        return plan.prepare(spec, weights, 4)
