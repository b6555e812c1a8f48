"""Products by weights stored in 8 bits that are unpacked to float, on Hopper's tensor cores."""

from __future__ import annotations

from torch2rt.backends.cuda.tactics import matmul_wgmma
from torch2rt.backends.unpacked import UnpackedTactic, unpacked_variants


class UnpackedWgmma(UnpackedTactic):
    """One width of tiles of the kernel for floats."""


globals().update(unpacked_variants(UnpackedWgmma, matmul_wgmma, "wgmma", __name__))
