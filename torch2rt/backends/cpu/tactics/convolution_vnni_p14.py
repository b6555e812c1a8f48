"""Convolution of bytes, 14 pixels by 32 output channels at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.vnni import plan
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights

BLOCK = plan.Block(pixels=14, vectors=2)


class BytesConvolution14(Tactic):
    """Weights are read once for 14 pixels: the better, the larger they are."""

    name: ClassVar[str] = "convolution.vnni.p14"
    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Unsigned bytes by constant signed bytes, whole registers of channels, one group."""
        return plan.refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last."""
        return plan.layouts(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the kernels, pack the weights."""
        return plan.prepare(spec, weights, BLOCK)
