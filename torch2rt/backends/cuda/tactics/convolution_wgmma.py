"""1x1 convolutions without stride on Hopper's tensor cores; one tactic per width of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.sm90_products import WIDTHS
from torch2rt.backends.cuda.cpp.sm90_tactic import WgmmaTactic
from torch2rt.backends.cuda.cpp.walks import image_choice
from torch2rt.backends.cuda.tactics.convolution_triton import convolution_product
from torch2rt.backends.cuda.triton.gemm import Product
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Refusal


class WgmmaConvolution(WgmmaTactic):
    """The product of all pixels by the weights."""

    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last."""
        return (image_choice(spec),)

    def find_product(self, spec: LayerSpec) -> Product | Refusal:
        """The product that a 1x1 convolution is."""
        return convolution_product(spec)


globals().update({
    f"Wgmma{width}": type(f"Wgmma{width}", (WgmmaConvolution,), {
        "__module__": __name__, "__doc__": f"Tiles of {width} columns.",
        "name": f"convolution.wgmma.tile_128x{width}", "width": width,
    })
    for width in WIDTHS
})
