"""Convolutions of bytes by our own kernels, in the blocks that are worth timing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.vnni import plan
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class BytesConvolution(Tactic):
    """A tile of pixels by a panel of output channels at a time, all sums in registers."""

    kinds: ClassVar[tuple[str, ...]] = ("convolution",)
    block: ClassVar[plan.Block]

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Unsigned bytes by constant signed bytes, whole registers of channels, one group."""
        return plan.refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last."""
        return plan.layouts(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the kernels, pack the weights."""
        return plan.prepare(spec, weights, self.block)


class BytesConvolution7(BytesConvolution):
    """Each pixel is read for 64 output channels: the better, the less its weights are used."""

    name: ClassVar[str] = "convolution.vnni.p7"
    block: ClassVar[plan.Block] = plan.Block(pixels=7, vectors=4)


class BytesConvolution14(BytesConvolution):
    """Weights are read once for 14 pixels: the better, the larger they are."""

    name: ClassVar[str] = "convolution.vnni.p14"
    block: ClassVar[plan.Block] = plan.Block(pixels=14, vectors=2)
