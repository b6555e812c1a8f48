"""A matmul layer as cuBLASLt sees it, as plain data: hashable, picklable, made without it.

The library's matrices are column-major. A row-major [m, n] is a column-major [n, m], so the
library is given the right operand first, and a bias along n is its bias along rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt.backends.cuda.cublaslt.binding import DATA_TYPES
from torch2rt.backends.cuda.cublaslt.epilogue import Epilogue, find_epilogue
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

# Of a row of a matrix, and of matrices in a stack: 32-bit integers inside of kernels.
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows and columns as stored, row-major; elements from row to row and from one to the next."""

    rows: int
    columns: int
    row_stride: int
    batch_stride: int
    dtype: DType
    is_transposed: bool = False


@dataclass(frozen=True, slots=True)
class Gemm:
    """``batch`` products of [m, k] and [k, n]; ``c`` is the residual's matrix, or the result's.

    Of float8: ``scale`` is the input that scales columns, before all else; ``has_fast_sums`` that
    sums keep no more bits than those of tensor cores.
    """

    a: Matrix
    b: Matrix
    c: Matrix
    d: Matrix
    batch: int
    epilogue: Epilogue
    tf32: bool
    scale: int | None = None
    has_fast_sums: bool = False

    @property
    def digest(self) -> str:
        """Equal for equal problems, in every process. Which inputs they are does not matter."""
        e = self.epilogue
        parts: tuple[object, ...] = (
            self.a, self.b, self.c, self.d, self.batch, self.tf32, e.alpha == 1.0,
            e.bias is not None, e.residual is not None, e.has_gelu,
        )
        if self.a.dtype is DType.FLOAT8_E4M3:
            parts += (self.scale is not None, self.has_fast_sums)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def find_gemm(spec: LayerSpec) -> Gemm | Refusal:
    """The product of floats that a layer is; of float8, see float8.py."""
    a, b = spec.inputs[:2]
    return _refused_types(a, b, spec.outputs[0]) or find_gemm_of_any(spec)


def find_gemm_of_any(spec: LayerSpec) -> Gemm | Refusal:
    """The product that a layer is, whatever its dtypes."""
    kind = spec.kind
    assert isinstance(kind, Matmul)
    a, b = spec.inputs[:2]
    output = spec.outputs[0]
    epilogue = find_epilogue(spec)
    if isinstance(epilogue, Refusal):
        return epilogue
    residual = spec.inputs[epilogue.residual] if epilogue.residual is not None else output
    is_flat = math.prod(b.shape[:-2]) == 1 and not kind.transpose_a
    batch = 1 if is_flat else math.prod(output.shape[:-2])
    matrices = [
        _flat(x) if is_flat and x is not b else _stacked(x, batch) for x in (a, b, residual, output)
    ]
    first, second, third, last = matrices
    if first is None or second is None or third is None or last is None:
        return Refusal("matrices whose rows or stacks do not lie at one distance")
    if any(max(m.rows, m.columns, m.row_stride) > _MAX_SIZE for m in (first, second, last)):
        return Refusal("a matrix of more than 2^31 rows or columns")
    return Gemm(
        _transposed(first, kind.transpose_a), _transposed(second, kind.transpose_b), third, last,
        batch, epilogue, kind.tf32,
    )


def _refused_types(a: TensorSpec, b: TensorSpec, output: TensorSpec) -> Refusal | None:
    is_known = a.dtype in DATA_TYPES and a.dtype is not DType.FLOAT8_E4M3
    if not is_known or b.dtype is not a.dtype:
        return Refusal(f"operands of {a.dtype.value} and {b.dtype.value}")
    if output.dtype not in (a.dtype, DType.FLOAT32):
        return Refusal(f"a result of {output.dtype.value}")
    return None


def _flat(tensor: TensorSpec) -> Matrix | None:
    """All rows of a stack as one matrix."""
    rows = _merged(tensor.shape[:-1], tensor.strides[:-1])
    if rows is None or not _has_dense_rows(tensor):
        return None
    stride = max(rows[1], tensor.shape[-1])
    return Matrix(rows[0], tensor.shape[-1], stride, 0, tensor.dtype)


def _stacked(tensor: TensorSpec, batch: int) -> Matrix | None:
    """A stack of ``batch`` matrices, or one that serves all."""
    stack = _merged(tensor.shape[:-2], tensor.strides[:-2])
    if stack is None or stack[0] not in (1, batch) or not _has_dense_rows(tensor):
        return None
    rows, columns = tensor.shape[-2:]
    stride = tensor.strides[-2] if rows > 1 else columns
    return Matrix(rows, columns, stride, stack[1] if stack[0] > 1 else 0, tensor.dtype)


def _has_dense_rows(tensor: TensorSpec) -> bool:
    return tensor.shape[-1] == 1 or tensor.strides[-1] == 1


def _merged(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int] | None:
    """Size and stride of several axes as one, None where they do not follow on each other."""
    axes = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
    if not axes:
        return 1, 0
    size, stride = axes[-1]
    for outer, outer_stride in reversed(axes[:-1]):
        if outer_stride != size * stride:
            return None
        size *= outer
    return size, stride


def _transposed(matrix: Matrix, is_transposed: bool) -> Matrix:
    return Matrix(
        matrix.rows, matrix.columns, matrix.row_stride, matrix.batch_stride, matrix.dtype,
        is_transposed,
    )
