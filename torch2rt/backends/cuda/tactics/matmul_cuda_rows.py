"""Products of few rows that read a constant matrix once; one tactic per width of blocks."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.few_rows import (
    estimate_us,
    few_rows_refusal,
    prepare_few_rows,
)
from torch2rt.backends.cuda.tactics.matmul_triton import matmul_product
from torch2rt.backends.cuda.triton.gemm import Product
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.kernels.cuda.few_rows import TILE_COLUMNS


class FewRows(Tactic):
    """Blocks of ``tiles`` tiles of 8 columns: few fill the GPU, many read its caches less."""

    kinds: ClassVar[tuple[str, ...]] = ("matmul",)
    tiles: ClassVar[int]

    def product(self, spec: LayerSpec) -> Product | Refusal:
        """The product that a matmul is, if the kernel takes it."""
        product = matmul_product(spec)
        if isinstance(product, Refusal):
            return product
        return few_rows_refusal(spec, product) or product

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Rows may lie in wider tensors."""
        return not isinstance(self.product(spec), Refusal)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """A constant matrix and few rows, of 16 or 8 bits."""
        product = self.product(spec)
        return product if isinstance(product, Refusal) else None

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """The time of reading the matrix."""
        product = self.product(spec)
        return None if isinstance(product, Refusal) else estimate_us(product)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack weights, compile, bind."""
        product = self.product(spec)
        if isinstance(product, Refusal):
            raise Unprepared(product.reason)
        return prepare_few_rows(spec, weights, product, self.tiles)


globals().update({
    f"FewRows{TILE_COLUMNS * tiles}": type(f"FewRows{TILE_COLUMNS * tiles}", (FewRows,), {
        "__module__": __name__, "__doc__": f"Blocks of {TILE_COLUMNS * tiles} columns.",
        "name": f"matmul.cuda_rows.columns_{TILE_COLUMNS * tiles}", "tiles": tiles,
    })
    for tiles in (1, 2, 4)
})
