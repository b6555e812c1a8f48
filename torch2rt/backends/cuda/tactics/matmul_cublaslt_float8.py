"""Products of float8 by cuBLASLt, by fast sums and by exact ones."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cublaslt.float8 import find_float8_gemm
from torch2rt.backends.cuda.cublaslt.problem import Gemm
from torch2rt.backends.cuda.float8_sums import sums_refusal
from torch2rt.backends.cuda.tactics.matmul_cublaslt import CublasLtMatmul
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Unprepared, Weights


class CublasLtFloat8(CublasLtMatmul):
    """Scales, a bias and a residual are the library's; other epilogues are not.

    Its heuristics propose one algorithm for each kind of sums (13.1, sm_90).
    """

    index: ClassVar[int] = 0
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


class CublasLtFast(CublasLtFloat8):
    """The one algorithm that the library proposes, sums of which keep 14 bits."""

    name: ClassVar[str] = "matmul.cublaslt_float8.fast"
    has_fast_sums: ClassVar[bool] = True


class CublasLtExact(CublasLtFloat8):
    """That of sums in float32: hardly slower, now and then faster."""

    name: ClassVar[str] = "matmul.cublaslt_float8.exact"
    has_fast_sums: ClassVar[bool] = False
