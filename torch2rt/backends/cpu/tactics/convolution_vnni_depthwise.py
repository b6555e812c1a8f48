"""Depthwise convolution of bytes, 64 channels at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.vnni import depthwise_plan, plan
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class BytesDepthwise(Tactic):
    """Four rows of the window at once, a column of the image for all pixels that need it."""

    name: ClassVar[str] = "convolution.vnni.depthwise"
    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Unsigned bytes by constant signed bytes to bytes, a group per channel."""
        return depthwise_plan.refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last."""
        return plan.layouts(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the kernels, pack the weights."""
        return depthwise_plan.prepare(spec, weights)
