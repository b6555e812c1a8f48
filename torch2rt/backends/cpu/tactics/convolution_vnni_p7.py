"""Convolution of bytes, 7 pixels by 64 output channels at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.vnni import plan
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights

BLOCK = plan.Block(pixels=7, vectors=4)


class BytesConvolution7(Tactic):
    """Each pixel is read for 64 output channels: the better, the less its weights are used."""

    name: ClassVar[str] = "convolution.vnni.p7"
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
