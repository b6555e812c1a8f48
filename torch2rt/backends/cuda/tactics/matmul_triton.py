"""Matrix products by our Triton kernels, one tactic per tile; the model of time picks a few."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch2rt.backends.cuda.device import Device, current_device
from torch2rt.backends.cuda.triton import tiles
from torch2rt.backends.cuda.triton.gemm import (
    Product,
    find_product,
    map_refusal,
    prepare_maps,
    prepare_pointers,
)
from torch2rt.backends.cuda.triton.operands import aligned_strides, epilogue_refusal
from torch2rt.backends.cuda.triton.tiles import BYTE_MAP_TILES, POINTER_TILES, Tile, rank_tiles
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.matmul import Matmul


class TritonMatmul(Tactic):
    """One tile of one kernel: operands through tensor maps or through pointers."""

    kinds: ClassVar[tuple[str, ...]] = ("matmul",)
    tile: ClassVar[Tile]
    through_maps: ClassVar[bool]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Strides are arguments; tensor maps want multiples of 16 bytes."""
        product = matmul_product(spec)
        if isinstance(product, Refusal):
            return False
        return not self.through_maps or map_refusal(product) is None

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats, with an epilogue of ours; only tiles among the best by the model of time."""
        product = matmul_product(spec)
        if isinstance(product, Refusal):
            return product
        device = current_device()
        refusal = map_refusal(product)
        if device.capability < (9, 0):
            refusal = Refusal("tensor maps need sm_90 or newer")
        if self.through_maps and refusal is not None:
            return refusal
        ranks = rank_tiles(product.work(), device, refusal is None)
        is_stored = product.b_dtype is not product.dtype
        if (refusal is None or is_stored) and _fills_hopper(product, device):
            ranks = ranks[: tiles.BESIDE_WGMMA]
        if (self.tile, self.through_maps) not in ranks:
            return Refusal(f"{len(ranks)} other tiles should be faster")
        return None

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """The model's time."""
        product = matmul_product(spec)
        if isinstance(product, Refusal):
            return None
        return product.work().estimate_us(self.tile, current_device(), self.through_maps)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack weights, compile, bind."""
        product = matmul_product(spec)
        if isinstance(product, Refusal):
            raise Unprepared(product.reason)
        if self.through_maps:
            return prepare_maps(spec, weights, product, self.tile)
        return prepare_pointers(spec, weights, product, self.tile)


def _fills_hopper(product: Product, device: Device) -> bool:
    """Whether it is one of the large products that `matmul_wgmma` and libraries are faster for."""
    count = math.ceil(product.m / 128) * math.ceil(product.n / 128)
    is_large = 2 * count >= device.multiprocessors and product.pack is not None
    return device.capability == (9, 0) and is_large and product.dtype.itemsize_bytes <= 2


def matmul_product(spec: LayerSpec) -> Product | Refusal:
    """The product that a matmul layer is."""
    kind = spec.kind
    assert isinstance(kind, Matmul)
    refusal = epilogue_refusal(spec)
    if refusal is not None:
        return refusal
    shape = spec.outputs[0].shape
    rank = len(shape)
    batch = shape[:-2]
    a, b = spec.inputs[:2]
    k = a.shape[-2 if kind.transpose_a else -1]
    *a_batch, a_row, a_k = aligned_strides(a, (*batch, *a.shape[-2:]))
    *b_batch, b_k, b_column = aligned_strides(b, (*batch, *b.shape[-2:]))
    if kind.transpose_a:
        a_row, a_k = a_k, a_row
    if kind.transpose_b:
        b_k, b_column = b_column, b_k
    is_packed = spec.constants[1] is not None and not any(b_batch)

    def pack(array: Any) -> Any:
        matrix = array.reshape(array.shape[-2:])
        return matrix if kind.transpose_b else matrix.T

    return find_product(
        spec, shape, k, (*a_batch, a_row, 0, a_k), (*b_batch, 0, b_column, b_k), rank - 1,
        pack if is_packed else None, kind.tf32,
    )


def _tactic(tile: Tile, through_maps: bool) -> type[TritonMatmul]:
    reader = "tma" if through_maps else "pointer"
    return type(f"Matmul{reader}{tile.name}", (TritonMatmul,), {
        "__module__": __name__, "__doc__": f"Tile {tile.name} through {reader}s.",
        "name": f"matmul.triton.{reader}_{tile.name}", "tile": tile, "through_maps": through_maps,
    })


globals().update({
    cls.__name__: cls for cls in (
        *(_tactic(tile, through_maps=True) for tile in BYTE_MAP_TILES),
        *(_tactic(tile, through_maps=False) for tile in POINTER_TILES),
    )
})
