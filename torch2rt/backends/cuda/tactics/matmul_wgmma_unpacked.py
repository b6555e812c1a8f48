"""Products by weights stored in 8 bits that are unpacked to float, on Hopper's tensor cores."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.tactics import matmul_wgmma
from torch2rt.backends.cuda.tactics.matmul_wgmma import WgmmaMatmul
from torch2rt.backends.tactic import Tactic
from torch2rt.backends.unpacked import UnpackedTactic


class UnpackedWgmma(UnpackedTactic):
    """One width of tiles of the kernel for floats."""

    over: ClassVar[Tactic]


globals().update({
    f"Unpacked{name}": type(f"Unpacked{name}", (UnpackedWgmma,), {
        "__module__": __name__, "__doc__": f"{cls.__doc__} Weights are unpacked.",
        "name": cls.name.replace("wgmma", "wgmma_unpacked"), "over": cls(),
    })
    for name, cls in vars(matmul_wgmma).items()
    if isinstance(cls, type) and issubclass(cls, WgmmaMatmul) and cls is not WgmmaMatmul
})
