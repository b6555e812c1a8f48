"""Matrix products on Hopper's tensor cores; one tactic per width of tiles."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.sm90_products import WIDTHS
from torch2rt.backends.cuda.cpp.sm90_tactic import WgmmaTactic
from torch2rt.backends.cuda.tactics.matmul_triton import matmul_product
from torch2rt.backends.cuda.triton.gemm import Product
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal


class WgmmaMatmul(WgmmaTactic):
    """A matmul by a constant."""

    kinds: ClassVar[tuple[str, ...]] = ("matmul",)

    def find_product(self, spec: LayerSpec) -> Product | Refusal:
        """The product that a matmul is."""
        return matmul_product(spec)


globals().update({
    f"Wgmma{width}": type(f"Wgmma{width}", (WgmmaMatmul,), {
        "__module__": __name__, "__doc__": f"Tiles of {width} columns.",
        "name": f"matmul.wgmma.tile_128x{width}", "width": width,
    })
    for width in WIDTHS
})
