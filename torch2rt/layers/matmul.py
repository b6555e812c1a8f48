"""Matrix product with broadcast batch axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt import expression as ex
from torch2rt.layers.accumulator import (
    EIGHT_BITS,
    accumulator_dtype,
    has_stored_weights,
    summed_exactly,
)
from torch2rt.layers.rules import rule
from torch2rt.layers.shapes import broadcast
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Matmul(LayerKind):
    """y[..., m, n] = sum over k of a[..., m, k] * b[..., k, n].

    Inputs: a [*batch, m, k], or [*batch, k, m] with ``transpose_a``; b [*batch, k, n], or
    [*batch, n, k] with ``transpose_b``. The batch axes broadcast; both have at least two axes.
    Output: [*batch, m, n], dtype of a; of 8-bit integers the exact sum, int32; of float8 the sum
    in float32. Beside a float a, b may be int8: weights stored in 8 bits, whose whole numbers
    are multiplied as floats, and whose scale is an epilogue term. A linear layer is
    ``transpose_b`` with its weight [n, k] as b; bias, residual and activation are epilogue terms.
    ``tf32`` lets float32 operands be rounded to TF32, a mantissa of 10 bits, before they multiply.
    Source: torch.matmul; ONNX MatMul and Gemm.
    """

    name: ClassVar[str] = "matmul"
    takes_epilogue: ClassVar[bool] = True
    transpose_a: bool = False
    transpose_b: bool = False
    tf32: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """[*batch, m, n]."""
        a, b = inputs
        if a.rank < 2 or b.rank < 2:
            raise ValueError(f"matmul needs two axes or more, not {a} and {b}")
        m, k = _matrix(a.shape, self.transpose_a)
        k_of_b, n = _matrix(b.shape, self.transpose_b)
        if isinstance(k, int) and isinstance(k_of_b, int) and k != k_of_b:
            raise ValueError(f"matmul of {a} and {b}: inner sizes {k} and {k_of_b} differ")
        try:
            is_stored = has_stored_weights(a.dtype, b.dtype)
            dtype = a.dtype if is_stored else accumulator_dtype(a.dtype, b.dtype)
        except ValueError as error:
            raise ValueError(f"matmul of {a} and {b}: {error}") from error
        batch = broadcast(a.shape[:-2], b.shape[:-2])
        return (TensorType((*batch, m, n), dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.matmul of the transposed views."""
        a, b = inputs
        if b.dtype == torch.int8 and a.is_floating_point():
            b = b.to(a.dtype)
        left, right = a.mT if self.transpose_a else a, b.mT if self.transpose_b else b
        return (summed_exactly(torch.matmul, left, right, left.shape[-1]),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Two per multiply-add."""
        _, k = _matrix(inputs[0].shape, self.transpose_a)
        return 2 * int(outputs[0].element_count) * int(k)


def _matrix(shape: Shape, is_transposed: bool) -> tuple[Dim, Dim]:
    rows, columns = shape[-2:]
    return (columns, rows) if is_transposed else (rows, columns)


@rule("aten.linear.default")
def lower_linear(
    lowering: Lowering, input: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """linear(x, w, b) = x w^T + b, any number of leading axes; w may be a vector [k]."""
    if weight.rank == 1:
        weight = lowering.reshape(weight, (1, *weight.shape))
    x = input if input.rank > 1 else lowering.reshape(input, (1, *input.shape))
    result = lowering.add(Matmul(transpose_b=True), x, weight)
    result = lowering.reshape(result, lowering.output_type.shape)
    return result if bias is None else lowering.pointwise("add", result, bias)


@rule("aten.matmul.default", "aten.linalg_matmul.default")
def lower_matmul(lowering: Lowering, input: Tensor, other: Tensor) -> Tensor:
    """torch.matmul: a vector on the left is a row, on the right a column."""
    return multiply(lowering, input, other)


@rule("aten.mm.default", "aten.bmm.default")
def lower_mm(lowering: Lowering, input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices, or of two stacks of them."""
    return multiply(lowering, input, mat2)


@rule("aten.mv.default")
def lower_mv(lowering: Lowering, input: Tensor, vec: Tensor) -> Tensor:
    """Matrix times vector."""
    return multiply(lowering, input, vec)


@rule("aten.dot.default")
def lower_dot(lowering: Lowering, input: Tensor, tensor: Tensor) -> Tensor:
    """Vector times vector."""
    return multiply(lowering, input, tensor)


@rule("aten.vdot.default")
def lower_vdot(lowering: Lowering, input: Tensor, other: Tensor) -> Tensor:
    """Vector times vector; we have no complex numbers to conjugate."""
    return multiply(lowering, input, other)


@rule("aten.inner.default")
def lower_inner(lowering: Lowering, input: Tensor, other: Tensor) -> Tensor:
    """y[..., ~] = sum over the last axis of both."""
    if input.rank == 0 or other.rank == 0:
        return lowering.pointwise("mul", input, other)
    k = input.shape[-1]
    a = lowering.reshape(input, (-1, k))
    b = lowering.reshape(other, (-1, k))
    result = lowering.add(Matmul(transpose_b=True), a, b)
    return lowering.reshape(result, lowering.output_type.shape)


@rule("aten.addmm.default")
def lower_addmm(
    lowering: Lowering, input: Tensor, mat1: Tensor, mat2: Tensor, beta: float, alpha: float
) -> Tensor:
    """``beta * input + alpha * (mat1 mat2)``."""
    return _scaled_sum(lowering, input, multiply(lowering, mat1, mat2), beta, alpha)


@rule("aten.addmv.default")
def lower_addmv(
    lowering: Lowering, input: Tensor, mat: Tensor, vec: Tensor, beta: float, alpha: float
) -> Tensor:
    """``beta * input + alpha * (mat vec)``."""
    return _scaled_sum(lowering, input, multiply(lowering, mat, vec), beta, alpha)


@rule("aten.baddbmm.default")
def lower_baddbmm(
    lowering: Lowering, input: Tensor, batch1: Tensor, batch2: Tensor, beta: float, alpha: float
) -> Tensor:
    """``beta * input + alpha * (batch1 batch2)``."""
    return _scaled_sum(lowering, input, multiply(lowering, batch1, batch2), beta, alpha)


def linear(lowering: Lowering, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Add the layers of x w^T + b for x [..., m, k], w [n, k] and b [n]."""
    result = lowering.add(Matmul(transpose_b=True), x, weight)
    return result if bias is None else lowering.pointwise("add", result, bias, dtype=x.dtype)


def multiply(lowering: Lowering, a: Tensor, b: Tensor) -> Tensor:
    """Add the layers of ``torch.matmul(a, b)``."""
    left = a if a.rank > 1 else lowering.reshape(a, (1, *a.shape))
    right = b if b.rank > 1 else lowering.reshape(b, (*b.shape, 1))
    result = lowering.add(Matmul(), left, right)
    if a.dtype in EIGHT_BITS:  # torch's product of bytes is of bytes, and wraps
        result = lowering.expression(ex.cast(a.dtype, ex.Input(0)), result)
    shape = list(result.shape)
    if b.rank == 1:
        del shape[-1]
    if a.rank == 1:
        del shape[-1 if b.rank == 1 else -2]
    return lowering.reshape(result, tuple(shape))


def _scaled_sum(
    lowering: Lowering, addend: Tensor, product: Tensor, beta: float, alpha: float
) -> Tensor:
    """``beta * addend + alpha * product``; torch ignores the addend where beta is zero, NaN too."""
    scaled = ex.Input(0) if alpha == 1 else ex.apply("mul", ex.Input(0), alpha)
    if beta == 0:
        return lowering.expression(scaled, product) if alpha != 1 else product
    term = ex.Input(1) if beta == 1 else ex.apply("mul", ex.Input(1), beta)
    return lowering.expression(ex.apply("add", scaled, term), product, addend)
