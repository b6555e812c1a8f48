"""Matrix products by kernels/cuda/sm90_product.py: which layers they take, and their launches."""

from __future__ import annotations

import math
from dataclasses import replace

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.print_cpp import missing_op, print_cpp
from torch2rt.backends.cuda.device import Device, current_device
from torch2rt.backends.cuda.launch import I32, Argument, KernelPrepared, Launch, Out
from torch2rt.backends.cuda.triton.gemm import Product, map_refusal, packed_pitch, packed_rows
from torch2rt.backends.cuda.triton.launch import overwritable
from torch2rt.backends.cuda.triton.tensor_map import Box, Matrix, encoded_map
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.kernels.cuda.sm90_product import (
    BLOCK_M,
    STORE_ROWS,
    THREADS,
    Operand,
    ProductForm,
    product_source,
)
from torch2rt.network.dtype import DType

# Widths of tiles.
WIDTHS = (128, 192)
# CUtensorMapDataType and CUtensorMapSwizzle of the driver.
_ELEMENTS = {DType.INT8: 0, DType.FLOAT16: 6, DType.BFLOAT16: 9}
_SWIZZLES = {64: 2, 128: 3}
_OUTPUTS = (DType.FLOAT16, DType.BFLOAT16, DType.INT8)
# Of the tensor cores, for one of two groups at work; what a launch costs.
_FLOPS_PER_US = 5.0e6
_START_US = 3.0
_MOST_STAGES = 6
_MEMORY_BYTES_PER_US = 3.6e6


def product_refusal(spec: LayerSpec, product: Product) -> Refusal | None:
    """Why the kernel does not take this product."""
    if product.dtype not in _ELEMENTS or product.out_dtype not in _OUTPUTS:
        return Refusal(f"{product.dtype.value} to {product.out_dtype.value}")
    if product.pack is None:
        return Refusal("a right operand that is not constant")
    missing = missing_op(spec.epilogue) if spec.epilogue is not None else None
    if missing is not None:
        return Refusal(f"an epilogue with {missing}")
    if min(product.n, product.m) < BLOCK_M // 2:
        return Refusal("too small to fill tiles")
    return map_refusal(product)


def estimate_us(product: Product, block_n: int) -> float:
    """Microseconds, roughly: rounds of tiles, or the bytes."""
    device = current_device()
    rounds: int = min(
        math.ceil(_pairs(product, block_n, shares_a) / (device.multiprocessors // 2))
        for shares_a in (False, True)
    )
    rate = _FLOPS_PER_US * (2 if product.dtype is DType.INT8 else 1)
    one: float = 2 * BLOCK_M * block_n * product.k / rate
    memory = product.work().bytes_moved / _MEMORY_BYTES_PER_US
    return max(rounds * one, memory) + _START_US


def _pairs(product: Product, block_n: int, shares_a: bool) -> int:
    """Pairs of tiles that cover the result."""
    rows: int = math.ceil(product.m / BLOCK_M)
    columns: int = math.ceil(product.n / block_n)
    return rows * math.ceil(columns / 2) if shares_a else math.ceil(rows / 2) * columns


def prepare_product(
    spec: LayerSpec, weights: Weights, product: Product, block_n: int
) -> Prepared:
    """The launch: packed weights, a source for the epilogue, clusters as many as fit."""
    device = current_device()
    form = _form(spec, product, block_n, device)
    kernel = cpp_kernel(weights, "t2r_product", product_source(form), form.shared_bytes)
    clusters = device.multiprocessors // 2
    tiles = _pairs(product, block_n, form.shares_a)
    launch = Launch(
        kernel, (2 * min(tiles, clusters), 1, 1), (THREADS, 1, 1),
        _arguments(spec, weights, product, form, tiles), form.shared_bytes, overlaps=True,
    )
    return KernelPrepared([launch], may_overwrite=overwritable(spec, product.extras))


def _form(spec: LayerSpec, product: Product, block_n: int, device: Device) -> ProductForm:
    """The source's parameters: the operand to share is the one that leaves the fewest rounds."""
    clusters = device.multiprocessors // 2
    pairs = {shares_a: _pairs(product, block_n, shares_a) for shares_a in (False, True)}
    shares_a = min(pairs, key=lambda shares: (math.ceil(pairs[shares] / clusters), pairs[shares]))
    rows, columns = (BLOCK_M, 2 * block_n) if shares_a else (2 * BLOCK_M, block_n)
    operands = tuple(Operand(extra.kind, extra.dtype) for extra in product.extras)
    form = ProductForm(
        product.dtype, product.out_dtype, block_n, 2, shares_a,
        product.m % rows == 0 and product.n % columns == 0, product.n % 2 == 0, operands,
        _expression(spec, product),
    )
    stages = 2
    while stages < _MOST_STAGES and (
        replace(form, stages=stages + 1).shared_bytes <= device.shared_bytes
    ):
        stages += 1
    return replace(form, stages=stages)


def _expression(spec: LayerSpec, product: Product) -> str:
    """The epilogue in C++; operands come as floats."""
    accumulator = DType.INT32 if product.dtype is DType.INT8 else DType.FLOAT32
    dtypes = [accumulator, *(DType.FLOAT32 for _ in product.extras)]
    if spec.epilogue is None:
        return "i0"
    names = [f"i{index}" for index in range(len(dtypes))]
    return print_cpp(spec.epilogue, names, dtypes, product.out_dtype)


def _arguments(
    spec: LayerSpec, weights: Weights, product: Product, form: ProductForm, tiles: int
) -> list[Argument]:
    m, n, k = product.m, product.n, product.k
    a_rows, b_rows = form.box_rows
    item, out_item = product.dtype.itemsize_bytes, product.out_dtype.itemsize_bytes

    def load(rows: int) -> Box:
        return Box(_ELEMENTS[product.dtype], item, _SWIZZLES[128], (rows, form.block_k))

    store = Box(
        _ELEMENTS[product.out_dtype], out_item, _SWIZZLES[form.store_row_bytes],
        (STORE_ROWS, form.store_columns),
    )
    weights_at = packed_rows(spec, weights, product)
    arguments: list[Argument] = [
        encoded_map(
            Matrix(operand(spec, weights, 0), (m, k), (_pitch(product.a[2], k, item), 1)),
            load(a_rows),
        ),
        encoded_map(Matrix(weights_at, (n, k), (packed_pitch(product), 1)), load(b_rows)),
        encoded_map(Matrix(Out(0), (m, n), (_pitch(product.y[2], n, out_item), 1)), store),
        I32(m), I32(n), I32(math.ceil(k / form.block_k)), I32(tiles),
    ]
    for extra in product.extras:
        arguments.append(operand(spec, weights, extra.index))
        if extra.kind == "matrix":
            arguments.append(I32(extra.strides[2]))
    return arguments


def _pitch(stride: int, columns: int, itemsize_bytes: int) -> int:
    """A row's stride; of a single row some multiple of 16 bytes, which nobody uses."""
    step = 16 // itemsize_bytes
    return stride or math.ceil(columns / step) * step

