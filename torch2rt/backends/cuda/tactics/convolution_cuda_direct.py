"""Any convolution by our direct kernel."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.convolution.direct import DirectTactic


class DirectConvolution(DirectTactic):
    """Slow, and always there: odd channels, dilation, groups, weights that are computed."""

    name: ClassVar[str] = "convolution.cuda.direct"
    kinds: ClassVar[tuple[str, ...]] = ("convolution",)
    transposed: ClassVar[bool] = False
