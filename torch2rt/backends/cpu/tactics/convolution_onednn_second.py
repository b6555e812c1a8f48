"""Convolution by the implementation that oneDNN ranks second.

Its ranking is not always that of the clock: for depthwise convolutions of MobileNetV2 the second
takes three quarters of the first one's time (tests/bench/results/onednn_conv_sweep.csv).
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

from torch2rt.backends.cpu.onednn import PrimitiveDesc
from torch2rt.backends.cpu.tactics.convolution_onednn import DirectConvolution
from torch2rt.backends.tactic import Unprepared


class SecondConvolution(DirectConvolution):
    """As the direct convolution, with the next implementation."""

    name: ClassVar[str] = "convolution.onednn.second"

    def chosen(self, desc: PrimitiveDesc) -> PrimitiveDesc:
        """The second implementation. Raises Unprepared if there is none but the reference."""
        found = list(islice(desc.implementations(), 2))
        if len(found) < 2 or found[1].implementation.startswith("ref"):
            raise Unprepared("oneDNN has no second implementation")
        return found[1]
