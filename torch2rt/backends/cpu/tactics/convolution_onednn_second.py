"""Convolution by the implementation that oneDNN ranks second.

Its ranking is not always that of the clock: for depthwise convolutions of MobileNetV2 the second
takes three quarters of the first one's time (tests/bench/results/onednn_conv_sweep.csv).
"""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.onednn import PrimitiveDesc
from torch2rt.backends.cpu.tactics.convolution_onednn import DirectConvolution
from torch2rt.backends.tactic import Unprepared


class SecondConvolution(DirectConvolution):
    """As the direct convolution, with the next implementation."""

    name: ClassVar[str] = "convolution.onednn.second"

    def chosen(self, desc: PrimitiveDesc) -> PrimitiveDesc:
        """The second implementation. Raises Unprepared if there is none but the reference."""
        # What was built before is listed twice, so the second is the first of another name.
        favourite = desc.implementation
        others = (i for i in desc.implementations() if i.implementation != favourite)
        second = next(others, None)
        if second is None or second.implementation.startswith("ref"):
            raise Unprepared("oneDNN has no second implementation")
        if "vnni" in favourite and "vnni" not in second.implementation:
            raise Unprepared("the second sums pairs of bytes in 16 bits, which saturates")
        return second
