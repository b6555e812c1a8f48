"""Matrix products on Hopper's tensor cores; one tactic per width of tiles."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.sm90_products import WIDTHS, Problem, problem_of_product
from torch2rt.backends.cuda.cpp.sm90_tactic import WgmmaTactic
from torch2rt.backends.cuda.tactics.matmul_triton import matmul_product
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal


class WgmmaMatmul(WgmmaTactic):
    """A matmul by a constant."""

    kinds: ClassVar[tuple[str, ...]] = ("matmul",)

    def problem(self, spec: LayerSpec) -> Problem | Refusal:
        """The product that a matmul is."""
        product = matmul_product(spec)
        return product if isinstance(product, Refusal) else problem_of_product(product)


globals().update({
    f"Wgmma{width}": type(f"Wgmma{width}", (WgmmaMatmul,), {
        "__module__": __name__, "__doc__": f"Tiles of {width} columns.",
        "name": f"matmul.wgmma.tile_128x{width}", "width": width,
    })
    for width in WIDTHS
})
