"""torch.compile that times Triton templates against the libraries."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.bench.contenders.compile import Compile
from torch2rt.bench.contenders.eager import CUDA_VARIANTS


class MaxAutotune(Compile):
    """``torch.compile(model, mode="max-autotune")``, freezing on; minutes to build."""

    name = "max_autotune"
    cuda_variants: ClassVar = dict.fromkeys(CUDA_VARIANTS, ("max-autotune",))
    devices: ClassVar = ("cuda",)
    build_limit_s: ClassVar[float | None] = 300.0
