"""What the tactics of kernels/cuda/sm90_product.py share: one tactic per width of tiles."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch2rt.backends.cuda.cpp.sm90_products import estimate_us, prepare_product, product_refusal
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.triton.gemm import Product
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights


class WgmmaTactic(Tactic):
    """Products on Hopper's tensor cores by tiles of 128 x ``width``, two of a block in turn."""

    width: ClassVar[int]

    @abc.abstractmethod
    def find_product(self, spec: LayerSpec) -> Product | Refusal:
        """The product that a layer is."""

    def product(self, spec: LayerSpec) -> Product | Refusal:
        """The product, if the kernel takes it."""
        product = self.find_product(spec)
        if isinstance(product, Refusal):
            return product
        return product_refusal(spec, product) or product

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Rows may lie in wider tensors."""
        return not isinstance(self.product(spec), Refusal)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Constant weights, 16 or 8 bits, sizes that fill tiles."""
        if current_device().capability != (9, 0):
            return Refusal("wgmma needs sm_90")
        product = self.product(spec.with_layouts(self.layouts(spec)[0]))
        return product if isinstance(product, Refusal) else None

    def estimate_us(self, spec: LayerSpec) -> float | None:
        """The model's time."""
        product = self.product(spec)
        return None if isinstance(product, Refusal) else estimate_us(product, self.width)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Pack weights, compile, bind."""
        product = self.product(spec)
        if isinstance(product, Refusal):
            raise Unprepared(product.reason)
        return prepare_product(spec, weights, product, self.width)
