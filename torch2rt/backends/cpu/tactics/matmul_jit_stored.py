"""Products of few rows by weights stored in 8 bits, widened in registers."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cpu.stored_weights import plan
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class StoredMatmul(Tactic):
    """One parallel region over panels of output channels. Bytes moved: the weights once."""

    name: ClassVar[str] = "matmul.jit.stored"
    kinds: ClassVar[tuple[str, ...]] = ("matmul",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Up to 32 rows of float32 or bfloat16 by a constant matrix of int8."""
        return plan.refusal(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the kernel, pack the weights."""
        return plan.prepare(spec, weights)
