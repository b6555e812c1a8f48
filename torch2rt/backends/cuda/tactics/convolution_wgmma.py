"""Convolutions of two axes on Hopper's tensor cores; one tactic per width of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.sm90_products import (
    WIDTHS,
    Problem,
    problem_of_product,
    problem_of_window,
)
from torch2rt.backends.cuda.cpp.sm90_tactic import WgmmaTactic
from torch2rt.backends.cuda.cpp.walks import image_choice
from torch2rt.backends.cuda.tactics.convolution_triton import (
    convolution_product,
    convolution_window,
)
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Refusal


class WgmmaConvolution(WgmmaTactic):
    """Pixels, tap by tap, by the weights."""

    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last."""
        return (image_choice(spec),)

    def problem(self, spec: LayerSpec) -> Problem | Refusal:
        """The product that a 1x1 convolution without stride is, or the window of another."""
        product = convolution_product(spec)
        if not isinstance(product, Refusal):
            return problem_of_product(product)
        window = convolution_window(spec)
        return window if isinstance(window, Refusal) else problem_of_window(window)


globals().update({
    f"Wgmma{width}": type(f"Wgmma{width}", (WgmmaConvolution,), {
        "__module__": __name__, "__doc__": f"Tiles of {width} columns.",
        "name": f"convolution.wgmma.tile_128x{width}", "width": width,
    })
    for width in WIDTHS
})
