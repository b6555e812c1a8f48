"""Products by weights stored in 8 bits that are unpacked to float, by our Triton kernels.

Many rows are multiplied faster so than by converting in the loop, as `matmul_triton` does. The
file stays small, memory holds the weights in float.
"""

from __future__ import annotations

from torch2rt.backends.cuda.tactics import matmul_triton
from torch2rt.backends.unpacked import UnpackedTactic, unpacked_variants


class UnpackedTriton(UnpackedTactic):
    """One tile of the kernels for floats."""


globals().update(unpacked_variants(UnpackedTriton, matmul_triton, "triton", __name__))
