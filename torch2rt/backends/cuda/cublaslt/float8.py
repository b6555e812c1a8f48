"""Products of float8 as cuBLASLt sees them: rows by rows, columns scaled, a float result.

The library scales by one number per row and per column of the result (sm_90, from 12.9 on), so
that add(add(mul(i0,i1),i2),i3) of scales, a bias and a residual is all its own.
"""

from __future__ import annotations

from dataclasses import replace

from torch2rt.backends.cuda.cublaslt import binding
from torch2rt.backends.cuda.cublaslt.problem import Gemm, find_gemm_of_any
from torch2rt.backends.cuda.device import FLOAT8_CAPABILITY, current_device
from torch2rt.backends.cuda.restored import scale_index, unscaled_spec
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

_RESULTS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)
# What sizes, and distances of rows, are multiples of.
_MULTIPLE = 16


def find_float8_gemm(spec: LayerSpec, has_fast_sums: bool) -> Gemm | Refusal:
    """The product of float8 that a layer is."""
    refusal = _refusal(spec)
    if refusal is not None:
        return refusal
    scale = scale_index(spec)
    gemm = find_gemm_of_any(spec if scale is None else unscaled_spec(spec, scale))
    if isinstance(gemm, Refusal):
        return gemm
    if any(size % _MULTIPLE for size in (gemm.a.columns, gemm.d.columns, gemm.a.row_stride)):
        return Refusal("sizes of float8 that are no multiples of 16")
    if gemm.epilogue.bias is not None and gemm.d.dtype is DType.FLOAT32:
        return Refusal("a bias of float8 that would be rounded to bfloat16")
    return replace(gemm, scale=scale, has_fast_sums=has_fast_sums)


def _refusal(spec: LayerSpec) -> Refusal | None:
    kind, (a, b), output = spec.kind, spec.inputs[:2], spec.outputs[0]
    if a.dtype is not DType.FLOAT8_E4M3 or b.dtype is not a.dtype or output.dtype not in _RESULTS:
        return Refusal(f"{a.dtype.value} times {b.dtype.value} to {output.dtype.value}")
    if not isinstance(kind, Matmul) or kind.transpose_a or not kind.transpose_b or b.rank != 2:
        return Refusal("float8 that is not multiplied row by row")
    if current_device().capability < FLOAT8_CAPABILITY:
        return Refusal("products of float8 of before sm_89")
    if scale_index(spec) is None:
        return None
    if current_device().capability != (9, 0):
        return Refusal("columns of float8 that are scaled, elsewhere than on sm_90")
    if binding.version() < binding.FIRST_VERSION_WITH_VECTORS:
        return Refusal("columns of float8 that are scaled, by a cuBLASLt of before 12.9")
    return None
