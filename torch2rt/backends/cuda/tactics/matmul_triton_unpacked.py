"""Products by weights stored in 8 bits that are unpacked to float, by our Triton kernels.

Many rows are multiplied faster so than by converting in the loop, as `matmul_triton` does. The
file stays small, memory holds the weights in float.
"""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.tactics import matmul_triton
from torch2rt.backends.cuda.tactics.matmul_triton import TritonMatmul
from torch2rt.backends.tactic import Tactic
from torch2rt.backends.unpacked import UnpackedTactic


class UnpackedTriton(UnpackedTactic):
    """One tile of the kernels for floats."""

    over: ClassVar[Tactic]


globals().update({
    f"Unpacked{name}": type(f"Unpacked{name}", (UnpackedTriton,), {
        "__module__": __name__, "__doc__": f"{cls.__doc__} Weights are unpacked.",
        "name": cls.name.replace("triton", "triton_unpacked"), "over": cls(),
    })
    for name, cls in vars(matmul_triton).items()
    if isinstance(cls, type) and issubclass(cls, TritonMatmul) and cls is not TritonMatmul
})
