"""Products of float8 by cuBLASLt: one tactic per algorithm of fast sums, and of exact ones."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cublaslt.float8 import find_float8_gemm
from torch2rt.backends.cuda.cublaslt.problem import Gemm
from torch2rt.backends.cuda.float8_sums import sums_refusal
from torch2rt.backends.cuda.tactics.matmul_cublaslt import CublasLtMatmul
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Unprepared, Weights

FAST_COUNT, EXACT_COUNT = 4, 2


class CublasLtFloat8(CublasLtMatmul):
    """One algorithm. Scales, a bias and a residual are the library's; other epilogues are not."""

    has_fast_sums: ClassVar[bool]

    def gemm(self, spec: LayerSpec) -> Gemm | Refusal:
        """The product that a layer is."""
        return find_float8_gemm(spec, self.has_fast_sums)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Of fast sums, only with weights that 14 bits are enough for."""
        name = spec.constants[1]
        if self.has_fast_sums and name is not None:
            refusal = sums_refusal(weights.array(name))
            if refusal is not None:
                raise Unprepared(refusal.reason)
        return super().prepare(spec, weights)


globals().update({
    f"CublasLtFloat8{sums}{index}": type(f"CublasLtFloat8{sums}{index}", (CublasLtFloat8,), {
        "__module__": __name__, "__doc__": f"Algorithm {index} of the heuristics, {sums} sums.",
        "name": f"matmul.cublaslt_float8.{sums}{index}", "index": index,
        "has_fast_sums": sums == "fast",
    })
    for sums, count in (("fast", FAST_COUNT), ("exact", EXACT_COUNT))
    for index in range(count)
})
