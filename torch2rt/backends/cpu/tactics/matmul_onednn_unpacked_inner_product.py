"""Products by unpacked weights, as `matmul_onednn_unpacked`, by oneDNN's inner product."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.tactics.matmul_onednn_inner_product import InnerProduct
from torch2rt.backends.tactic import Tactic
from torch2rt.backends.unpacked import UnpackedTactic


class UnpackedInnerProduct(UnpackedTactic):
    """oneDNN's inner product over the unpacked weights."""

    name: ClassVar[str] = "matmul.onednn.unpacked_inner_product"
    over: ClassVar[Tactic] = InnerProduct()
