"""Convolutions by our Triton kernels, one tactic per tile; the model of time picks a few.

1x1 convolutions without stride are matrix products of all pixels; others read boxes of pixels
through tensor maps, or gather pixels through pointers, or gather runs of pixels of few channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.triton import convolution as windows
from torch2rt.backends.cuda.triton import patches, tiles
from torch2rt.backends.cuda.triton.gemm import (
    Product,
    find_product,
    map_refusal,
    prepare_maps,
    prepare_pointers,
)
from torch2rt.backends.cuda.triton.operands import epilogue_refusal
from torch2rt.backends.cuda.triton.tiles import (
    BYTE_BOX_TILES,
    BYTE_MAP_TILES,
    GATHER_TILES,
    PATCH_TILES,
    POINTER_TILES,
    Tile,
    box_tiles,
    rank_patches,
    rank_tiles,
)
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.convolution import Convolution


class TritonConvolution(Tactic):
    """One tile of one kernel."""

    kinds: ClassVar[tuple[str, ...]] = ("convolution",)
    tile: ClassVar[Tile]

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last for images; weights and vectors as they are."""
        return (LayoutChoice(
            tuple(
                Layout.CHANNELS_LAST if operand.rank > 3 and i != 1 else Layout.PLAIN
                for i, operand in enumerate(spec.inputs)
            ),
            (Layout.CHANNELS_LAST,),
        ),)

    def chosen(self, spec: LayerSpec) -> LayerSpec:
        """The spec with these layouts, dense."""
        return spec.with_layouts(self.layouts(spec)[0])


class ProductConvolution(TritonConvolution):
    """A 1x1 convolution without stride, as a matrix product."""

    through_maps: ClassVar[bool]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Strides are arguments; tensor maps want multiples of 16 bytes."""
        product = convolution_product(spec)
        if isinstance(product, Refusal):
            return False
        return not self.through_maps or map_refusal(product) is None

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, with an epilogue of ours; only tiles among the best by the model of time."""
        product = convolution_product(self.chosen(spec))
        if isinstance(product, Refusal):
            return product
        device = current_device()
        refusal = map_refusal(product)
        if device.capability < (9, 0):
            refusal = Refusal("tensor maps need sm_90 or newer")
        if self.through_maps and refusal is not None:
            return refusal
        ranks = rank_tiles(product.work(), device, refusal is None)
        if (self.tile, self.through_maps) not in ranks:
            return Refusal(f"{len(ranks)} other tiles should be faster")
        return None

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """The model's time."""
        product = convolution_product(self.chosen(spec))
        if isinstance(product, Refusal):
            return None
        return product.work().estimate_us(self.tile, current_device(), self.through_maps)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack weights, compile, bind."""
        product = convolution_product(spec)
        if isinstance(product, Refusal):
            raise Unprepared(product.reason)
        if self.through_maps:
            return prepare_maps(spec, weights, product, self.tile)
        return prepare_pointers(spec, weights, product, self.tile)


class WindowConvolution(TritonConvolution):
    """Any convolution over two axes in one group; pixels in boxes, or gathered."""

    is_box: ClassVar[bool]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Strides are arguments; boxes want multiples of 16 bytes."""
        window = convolution_window(spec)
        if isinstance(window, Refusal):
            return False
        refuse = windows.box_refusal if self.is_box else windows.gather_refusal
        return refuse(window) is None

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, with an epilogue of ours; only tiles among the best by the model of time."""
        window = convolution_window(self.chosen(spec))
        if isinstance(window, Refusal):
            return window
        if not isinstance(patch_window(self.chosen(spec)), Refusal):
            return Refusal("patches should be faster")
        refuse = windows.box_refusal if self.is_box else windows.gather_refusal
        ranks = windows.rank_windows(
            window, current_device(), box_tiles(window.dtype.itemsize_bytes), GATHER_TILES,
            tiles.BOXES_WORTH_COMPILING, tiles.GATHERS_WORTH_COMPILING,
        )
        if (self.tile, self.is_box) in ranks:
            return None
        return refuse(window) or Refusal(f"{len(ranks)} other tiles should be faster")

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """The model's time."""
        window = convolution_window(self.chosen(spec))
        if isinstance(window, Refusal):
            return None
        return windows.estimate_window_us(window, self.tile, current_device(), self.is_box)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack weights, compile, bind."""
        window = convolution_window(spec)
        if isinstance(window, Refusal):
            raise Unprepared(window.reason)
        prepare = windows.prepare_box if self.is_box else windows.prepare_gather
        return prepare(spec, weights, window, self.tile)


class PatchConvolution(TritonConvolution):
    """A convolution of few channels without padding: images cut into patches."""

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """The image in either order; the output with channels last."""
        (choice,) = super().layouts(spec)
        return choice, LayoutChoice((Layout.PLAIN, *choice.inputs[1:]), choice.outputs)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Strides are arguments, where pixels of a row are dense."""
        return not isinstance(patch_window(spec), Refusal)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, with an epilogue of ours; only tiles among the best by the model of time."""
        window = patch_window(self.chosen(spec))
        if isinstance(window, Refusal):
            return window
        ranks = rank_patches(patches.patches_work(window), current_device())
        if self.tile not in ranks:
            return Refusal(f"{len(ranks)} other tiles should be faster")
        return None

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """The model's time."""
        window = patch_window(self.chosen(spec))
        if isinstance(window, Refusal):
            return None
        work = patches.patches_work(window)
        return work.estimate_us(self.tile, current_device(), through_maps=False)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack weights, compile, bind."""
        window = patch_window(spec)
        if isinstance(window, Refusal):
            raise Unprepared(window.reason)
        return patches.prepare_patches(spec, weights, window, self.tile)


def patch_window(spec: LayerSpec) -> windows.Window | Refusal:
    """The window that an image is cut into, its layouts chosen."""
    window = epilogue_refusal(spec) or windows.find_window(spec)
    if isinstance(window, Refusal):
        return window
    return patches.patches_refusal(spec, window) or window


def convolution_product(spec: LayerSpec) -> Product | Refusal:
    """The product that a 1x1 convolution is, its layouts chosen."""
    kind, weight = spec.kind, spec.inputs[1]
    assert isinstance(kind, Convolution)
    if not _is_pointwise(kind, weight.shape):
        return Refusal("a kernel of more than a pixel, a stride, padding or groups")
    if spec.constants[1] is None:
        return Refusal("weights that are not constant")
    refusal = epilogue_refusal(spec)
    if refusal is not None:
        return refusal
    shape, x = spec.outputs[0].shape, spec.inputs[0]
    c = x.shape[1]
    a = [stride if size > 1 else 0 for stride, size in zip(x.strides, x.shape, strict=True)]
    a[1] = 0
    b = [0] * len(shape)
    b[1] = c

    def pack(array: Any) -> Any:
        return array.reshape(array.shape[0], -1)

    return find_product(spec, shape, c, (*a, x.strides[1]), (*b, 1), 1, pack, kind.tf32)


def _is_pointwise(kind: Convolution, weight: tuple[int, ...]) -> bool:
    return (
        math.prod(weight[2:]) == 1 and kind.groups == 1 and set(kind.stride) == {1}
        and not any(kind.padding_before) and not any(kind.padding_after) and len(weight) > 3
    )


def convolution_window(spec: LayerSpec) -> windows.Window | Refusal:
    """The window that a convolution is, its layouts chosen; products are another tactic's."""
    kind = spec.kind
    assert isinstance(kind, Convolution)
    if _is_pointwise(kind, spec.inputs[1].shape):
        return Refusal("a matrix product")
    x = spec.inputs[0]
    if x.rank > 1 and x.strides[1] != 1 and x.shape[1] > 1:
        return Refusal("channels are not innermost")
    return epilogue_refusal(spec) or windows.find_window(spec)


def _product(tile: Tile, through_maps: bool) -> type[Tactic]:
    reader = "tma" if through_maps else "pointer"
    return type(f"Product{reader}{tile.name}", (ProductConvolution,), {
        "__module__": __name__, "__doc__": f"Tile {tile.name} through {reader}s.",
        "name": f"convolution.triton.{reader}_{tile.name}", "tile": tile,
        "through_maps": through_maps,
    })


def _window(tile: Tile, is_box: bool) -> type[Tactic]:
    reader = "box" if is_box else "gather"
    return type(f"Window{reader}{tile.name}", (WindowConvolution,), {
        "__module__": __name__, "__doc__": f"Tile {tile.name} by {reader}.",
        "name": f"convolution.triton.{reader}_{tile.name}", "tile": tile, "is_box": is_box,
    })


def _patches(tile: Tile) -> type[Tactic]:
    return type(f"Patches{tile.name}", (PatchConvolution,), {
        "__module__": __name__, "__doc__": f"Tile {tile.name} of patches.",
        "name": f"convolution.triton.patches_{tile.name}", "tile": tile,
    })


globals().update({
    cls.__name__: cls for cls in (
        *(_product(tile, through_maps=True) for tile in BYTE_MAP_TILES),
        *(_product(tile, through_maps=False) for tile in POINTER_TILES),
        *(_window(tile, is_box=True) for tile in BYTE_BOX_TILES),
        *(_window(tile, is_box=False) for tile in GATHER_TILES),
        *(_patches(tile) for tile in PATCH_TILES),
    )
})
