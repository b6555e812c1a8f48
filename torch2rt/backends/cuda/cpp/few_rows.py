"""Products of few rows by kernels/cuda/few_rows.py: which it takes, and their launch."""

from __future__ import annotations

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.print_cpp import missing_op, print_cpp
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I32, Argument, KernelPrepared, Launch, Out
from torch2rt.backends.cuda.rounding import unsaturated
from torch2rt.backends.cuda.triton.gemm import Product, packed_pitch, packed_rows
from torch2rt.backends.cuda.triton.launch import overwritable
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.kernels.cuda.few_rows import (
    AHEAD,
    MOST_ROWS,
    NAME,
    TILE_ROWS,
    FewRowsForm,
    few_rows_source,
    step_count,
)
from torch2rt.network.dtype import DType

_HALVES = (DType.FLOAT16, DType.BFLOAT16)
_SAME = (*_HALVES, DType.INT8, DType.FLOAT8_E4M3)
_OLDEST_CAPABILITY = (8, 0)
_MOST_WARPS = 8
# What is read of the weights per microsecond, and what a launch takes.
_BYTES_PER_US, _START_US = 3.0e6, 2.5


def few_rows_refusal(spec: LayerSpec, product: Product) -> Refusal | None:
    """Why the kernel does not take a product."""
    a, b, out = product.dtype, product.b_dtype, product.out_dtype
    if not (a is b and a in _SAME) and not (b is DType.INT8 and a in _HALVES):
        return Refusal(f"{a.value} times {b.value}")
    if out is DType.INT32:
        return Refusal("sums of bytes as they are")
    if current_device().capability < _OLDEST_CAPABILITY:
        return Refusal("products of warps of before sm_80")
    if product.batch != (1, 1) or product.m > MOST_ROWS:
        return Refusal(f"{product.m} rows, or several products")
    if product.pack is None:
        return Refusal("a right operand that is not constant")
    chunk = 16 // b.itemsize_bytes
    row_bytes = product.a[2] * a.itemsize_bytes
    if product.a[3] != 1 or product.k % chunk or row_bytes % 16:
        return Refusal("rows of the left operand are not dense, at multiples of 16 bytes")
    missing = missing_op(spec.epilogue) if spec.epilogue is not None else None
    return Refusal(f"an epilogue with {missing}") if missing is not None else None


def estimate_us(product: Product) -> float:
    """Microseconds, roughly."""
    return product.work().bytes_moved / _BYTES_PER_US + _START_US


def prepare_few_rows(
    spec: LayerSpec, weights: Weights, product: Product, tiles: int
) -> Prepared:
    """The launch of blocks of ``tiles`` tiles of columns."""
    form = _form(spec, product, tiles)
    kernel = cpp_kernel(weights, NAME, few_rows_source(form))
    arguments: list[Argument] = [
        operand(spec, weights, 0), packed_rows(spec, weights, product), Out(0),
        *(I32(size) for size in (product.m, product.n, product.k)),
        I32(product.a[2]), I32(packed_pitch(product)), I32(product.y[2]),
    ]
    for extra in product.extras:
        arguments.append(operand(spec, weights, extra.index))
        if extra.kind == "matrix":
            arguments.append(I32(extra.strides[2]))
    blocks = -(-product.n // form.columns)
    launch = Launch(kernel, (blocks, 1, 1), (form.threads, 1, 1), arguments, overlaps=True)
    return KernelPrepared([launch], may_overwrite=overwritable(spec, product.extras))


def _form(spec: LayerSpec, product: Product, tiles: int) -> FewRowsForm:
    """As many warps as have AHEAD steps each."""
    steps, warps = step_count(product.k, product.b_dtype.itemsize_bytes), 1
    while 2 * warps <= _MOST_WARPS and 2 * warps * AHEAD <= steps:
        warps *= 2
    return FewRowsForm(
        product.dtype, product.b_dtype, product.out_dtype, -(-product.m // TILE_ROWS), tiles,
        warps, tuple((extra.kind, extra.dtype) for extra in product.extras),
        _expression(spec, product),
    )


def _expression(spec: LayerSpec, product: Product) -> str:
    """The epilogue in C++; operands come as floats."""
    if spec.epilogue is None:
        return "i0"
    is_float8 = product.out_dtype is DType.FLOAT8_E4M3
    epilogue = unsaturated(spec.epilogue) if is_float8 else spec.epilogue
    accumulator = DType.INT32 if product.dtype is DType.INT8 else DType.FLOAT32
    dtypes = [accumulator, *(DType.FLOAT32 for _ in product.extras)]
    names = [f"i{index}" for index in range(len(dtypes))]
    return print_cpp(epilogue, names, dtypes, product.out_dtype)
