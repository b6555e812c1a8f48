"""Any transposed convolution by our direct kernel."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.convolution.direct import DirectTactic


class DirectDeconvolution(DirectTactic):
    """Gathers what reaches each pixel of the result: no atomics, the same order every time."""

    name: ClassVar[str] = "deconvolution.cuda.direct"
    kinds: ClassVar[tuple[str, ...]] = ("deconvolution",)
    transposed: ClassVar[bool] = True
