"""Products and convolutions by kernels/cuda/sm90_product.py: what it takes, and its launches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torch2rt.backends.cuda.constants import operand, packed_constant
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.print_cpp import missing_op, print_cpp
from torch2rt.backends.cuda.device import Device, current_device
from torch2rt.backends.cuda.float8_sums import sums_refusal
from torch2rt.backends.cuda.launch import (
    I32,
    Argument,
    Encoded,
    KernelPrepared,
    Launch,
    Out,
    Packed,
)
from torch2rt.backends.cuda.rounding import unsaturated
from torch2rt.backends.cuda.triton.convolution import Window
from torch2rt.backends.cuda.triton.gemm import Product, map_refusal, packed_pitch, packed_rows
from torch2rt.backends.cuda.triton.launch import overwritable
from torch2rt.backends.cuda.triton.operands import Extra
from torch2rt.backends.cuda.triton.tensor_map import (
    Box,
    Matrix,
    Pixels,
    encoded_map,
    encoded_pixels,
)
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Unprepared, Weights
from torch2rt.kernels.cuda.sm90_product import product_source
from torch2rt.kernels.cuda.sm90_product_form import (
    BLOCK_M,
    BLOCKS,
    STORE_ROWS,
    THREADS,
    Operand,
    ProductForm,
    Taps,
)
from torch2rt.network.dtype import DType

# Widths of tiles.
WIDTHS = (64, 128, 192)
# CUtensorMapDataType and CUtensorMapSwizzle of the driver.
_ELEMENTS = {DType.INT8: 0, DType.FLOAT8_E4M3: 0, DType.FLOAT16: 6, DType.BFLOAT16: 9}
_SWIZZLES = {64: 2, 128: 3}
_OUTPUTS = (DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.FLOAT8_E4M3)
# Of one multiprocessor's tensor cores; what a launch costs; of the memory.
_FLOPS_PER_US = 5.0e6
_START_US = 3.0
_MEMORY_BYTES_PER_US = 3.6e6
_MOST_STAGES = 6
# What is kept of a multiprocessor's shared memory per block, beside the block's own.
_RESERVED_BYTES = 1024
# Products of bytes whose sum stays within 2^22, which converts to float at full rate.
_MOST_SMALL_TERMS = 2**22 // 128**2
# What corners and steps of an im2col map may be.
_LOWEST_CORNER, _HIGHEST_CORNER, _LARGEST_STEP, _LARGEST_TAP = -128, 127, 8, 255


@dataclass(frozen=True)
class Problem:
    """y [m, n] = epilogue(sum over k), rows of y and operands at even distances.

    ``k``: of a row, or channels of a pixel; ``pitches``: of y and of each operand, in elements.
    ``window``: the convolution whose pixels are the rows.
    """

    m: int
    n: int
    k: int
    dtype: DType
    out_dtype: DType
    extras: tuple[Extra, ...]
    pitches: tuple[int, ...]
    bytes_moved: int
    product: Product | None = None
    window: Window | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of k per stage: 64 where 128 would leave much of the last one empty."""
        units = math.ceil(self.k * self.dtype.itemsize_bytes / 64)
        return 64 if units in (1, 3) else 128

    @property
    def block_k(self) -> int:
        """Elements of k per stage."""
        elements: int = self.row_bytes // self.dtype.itemsize_bytes
        return elements

    @property
    def steps(self) -> int:
        """Stages of a tile's sum."""
        taps = self.window.taps if self.window is not None else 1
        return taps * math.ceil(self.k / self.block_k)


def problem_of_product(product: Product) -> Problem | Refusal:
    """A product, if the kernel takes it."""
    problem = Problem(
        product.m, product.n, product.k, product.dtype, product.out_dtype, product.extras,
        (product.y[2], *(extra.strides[2] for extra in product.extras)),
        product.work().bytes_moved, product=product,
    )
    if product.pack is None:
        return Refusal("a right operand that is not constant")
    return _refusal(problem) or map_refusal(product) or problem


def problem_of_window(window: Window) -> Problem | Refusal:
    """A convolution, if the kernel takes it."""
    if window.row_strides is None:
        return Refusal("pixels that are not evenly spaced")
    n, c, h, w = window.x
    item, out = window.dtype.itemsize_bytes, window.out_dtype.itemsize_bytes
    moved = n * c * h * w * item + math.prod(window.y) * out + window.y[1] * c * window.taps * item
    problem = Problem(
        window.pixels, window.y[1], c, window.dtype, window.out_dtype, window.extras,
        window.row_strides, moved, window=window,
    )
    if any(stride * item % 16 for stride in window.x_strides):
        return Refusal("pixels of the input are not at multiples of 16 bytes")
    return _refusal(problem) or _corner_refusal(window) or _pitch_refusal(problem) or problem


def _refusal(problem: Problem) -> Refusal | None:
    if problem.dtype not in _ELEMENTS or problem.out_dtype not in _OUTPUTS:
        return Refusal(f"{problem.dtype.value} to {problem.out_dtype.value}")
    if min(problem.n, problem.m) < BLOCK_M // 4:
        return Refusal("too small to fill tiles")
    return None


def _pitch_refusal(problem: Problem) -> Refusal | None:
    dtypes = [problem.out_dtype, *(extra.dtype for extra in problem.extras)]
    kinds = ["matrix", *(extra.kind for extra in problem.extras)]
    for pitch, dtype, kind in zip(problem.pitches, dtypes, kinds, strict=True):
        if kind == "matrix" and (pitch * dtype.itemsize_bytes % 16 or not pitch):
            return Refusal("pixels of the output or of an operand are not at multiples of 16 bytes")
    return None


def _corner_refusal(window: Window) -> Refusal | None:
    """The limits of im2col maps."""
    corners = (*_lower(window), *_upper(window))
    if not all(_LOWEST_CORNER <= corner <= _HIGHEST_CORNER for corner in corners):
        return Refusal("padding or taps beyond what the copy engine takes")
    reach = [d * (k - 1) for d, k in zip(window.dilation, window.kernel, strict=True)]
    if max(window.stride) > _LARGEST_STEP or max(reach) > _LARGEST_TAP:
        return Refusal("a stride or taps beyond what the copy engine takes")
    return None


def epilogue_refusal(spec: LayerSpec) -> Refusal | None:
    """Why the layer's epilogue cannot be printed."""
    missing = missing_op(spec.epilogue) if spec.epilogue is not None else None
    return Refusal(f"an epilogue with {missing}") if missing is not None else None


def _lower(window: Window) -> tuple[int, int]:
    return -window.padding[0], -window.padding[1]


def _upper(window: Window) -> tuple[int, int]:
    """How far beyond the last pixel the last corner lies, over h and w."""
    found = []
    for axis in range(2):
        last = (window.y[2 + axis] - 1) * window.stride[axis] - window.padding[axis]
        found.append(last - (window.x[2 + axis] - 1))
    return found[0], found[1]


def estimate_us(problem: Problem, block_n: int) -> float:
    """Microseconds, roughly: rounds of tiles, or the bytes."""
    device = current_device()
    rounds: int = min(
        math.ceil(_pairs(problem, block_n, shares_a) / (device.multiprocessors // 2))
        for shares_a in (False, True)
    )
    rate = _FLOPS_PER_US * 2 / problem.dtype.itemsize_bytes
    one: float = 2 * BLOCK_M * block_n * problem.steps * problem.block_k / rate
    return max(rounds * one, problem.bytes_moved / _MEMORY_BYTES_PER_US) + _START_US


def _pairs(problem: Problem, block_n: int, shares_a: bool) -> int:
    """Pairs of tiles that cover the result."""
    rows: int = math.ceil(problem.m / BLOCK_M)
    columns: int = math.ceil(problem.n / block_n)
    return rows * math.ceil(columns / 2) if shares_a else math.ceil(rows / 2) * columns


def prepare_problem(
    spec: LayerSpec, weights: Weights, problem: Problem, block_n: int
) -> Prepared:
    """The launch: packed weights, a source for the epilogue, clusters as many as fit."""
    refusal = _sums_refusal(spec, weights, problem)
    if refusal is not None:
        raise Unprepared(refusal.reason)
    device = current_device()
    form = _form(spec, problem, block_n, device)
    kernel = cpp_kernel(weights, "t2r_product", product_source(form), form.shared_bytes)
    tiles = _pairs(problem, block_n, form.shares_a)
    clusters = min(tiles, form.blocks * device.multiprocessors // 2)
    launch = Launch(
        kernel, (2 * clusters, 1, 1), (THREADS, 1, 1),
        _arguments(spec, weights, problem, form, tiles), form.shared_bytes, overlaps=True,
    )
    return KernelPrepared([launch], may_overwrite=overwritable(spec, problem.extras))


def _sums_refusal(spec: LayerSpec, weights: Weights, problem: Problem) -> Refusal | None:
    """Why the tensor cores' sums of float8 would be too coarse for these weights."""
    name = spec.constants[1]
    if problem.dtype is not DType.FLOAT8_E4M3 or name is None:
        return None
    array, product = weights.array(name), problem.product
    if product is not None and product.pack is not None:
        return sums_refusal(product.pack(array))
    return sums_refusal(array.reshape(array.shape[0], -1))


def _form(spec: LayerSpec, problem: Problem, block_n: int, device: Device) -> ProductForm:
    """The source's parameters: the operand to share is the one that leaves the fewest rounds."""
    clusters = BLOCKS[block_n] * device.multiprocessors // 2
    pairs = {shares_a: _pairs(problem, block_n, shares_a) for shares_a in (False, True)}
    shares_a = min(pairs, key=lambda shares: (math.ceil(pairs[shares] / clusters), pairs[shares]))
    rows, columns = (BLOCK_M, 2 * block_n) if shares_a else (2 * BLOCK_M, block_n)
    form = ProductForm(
        problem.dtype, problem.out_dtype, block_n, problem.row_bytes, 2, shares_a,
        problem.m % rows == 0 and problem.n % columns == 0, problem.n % 2 == 0,
        _operands(problem), _expression(spec, problem), _taps(problem),
    )
    room = (device.shared_bytes + _RESERVED_BYTES) // form.blocks - _RESERVED_BYTES
    stages = 2
    while stages < _MOST_STAGES and replace(form, stages=stages + 1).shared_bytes <= room:
        stages += 1
    return replace(form, stages=stages)


def _operands(problem: Problem) -> tuple[Operand, ...]:
    """The epilogue's operands; the first that lies as the result does is staged."""
    found: list[Operand] = []
    for extra in problem.extras:
        is_staged = extra.kind == "matrix" and extra.dtype is problem.out_dtype
        is_first = all(operand.kind != "staged" for operand in found)
        found.append(Operand("staged" if is_staged and is_first else extra.kind, extra.dtype))
    return tuple(found)


def _taps(problem: Problem) -> Taps | None:
    window = problem.window
    if window is None:
        return None
    return Taps(
        window.kernel, window.stride, window.padding, window.dilation, window.y[2:],
        math.ceil(problem.k / problem.block_k),
    )


def _expression(spec: LayerSpec, problem: Problem) -> str:
    """The epilogue in C++; operands come as floats."""
    accumulator = DType.INT32 if problem.dtype is DType.INT8 else DType.FLOAT32
    dtypes = [accumulator, *(DType.FLOAT32 for _ in problem.extras)]
    if spec.epilogue is None:
        return "i0"
    is_float8 = problem.out_dtype is DType.FLOAT8_E4M3
    epilogue = unsaturated(spec.epilogue) if is_float8 else spec.epilogue
    names = [f"i{index}" for index in range(len(dtypes))]
    terms = problem.k * (problem.window.taps if problem.window is not None else 1)
    if problem.dtype is DType.INT8 and terms <= _MOST_SMALL_TERMS:
        names[0], dtypes[0] = "t2r_small_to_float(i0)", DType.FLOAT32
    return print_cpp(epilogue, names, dtypes, problem.out_dtype)


def _arguments(
    spec: LayerSpec, weights: Weights, problem: Problem, form: ProductForm, tiles: int
) -> list[Argument]:
    m, n = problem.m, problem.n
    out_item = problem.out_dtype.itemsize_bytes
    store = Box(
        _ELEMENTS[problem.out_dtype], out_item, _SWIZZLES[form.store_row_bytes],
        (STORE_ROWS, form.store_columns),
    )

    def stored(place: Any, pitch: int) -> Encoded:
        return encoded_map(Matrix(place, (m, n), (_pitch(pitch, n, out_item), 1)), store)

    arguments: list[Argument] = [
        _rows(spec, weights, problem, form), _columns(spec, weights, problem, form),
        stored(Out(0), problem.pitches[0]),
        I32(m), I32(n), I32(problem.steps), I32(tiles),
    ]
    for extra, kind, pitch in zip(
        problem.extras, form.operands, problem.pitches[1:], strict=True
    ):
        place = operand(spec, weights, extra.index)
        arguments.append(stored(place, pitch) if kind.kind == "staged" else place)
        if kind.kind == "matrix":
            arguments.append(I32(pitch))
    return arguments


def _rows(spec: LayerSpec, weights: Weights, problem: Problem, form: ProductForm) -> Encoded:
    """The map of the left operand: rows, or pixels."""
    item, (rows, _) = problem.dtype.itemsize_bytes, form.box_rows
    box = Box(_ELEMENTS[problem.dtype], item, _SWIZZLES[form.row_bytes], (rows, form.block_k))
    place = operand(spec, weights, 0)
    if problem.product is not None:
        pitch = _pitch(problem.product.a[2], problem.k, item)
        return encoded_map(Matrix(place, (problem.m, problem.k), (pitch, 1)), box)
    window = problem.window
    assert window is not None
    n, c, h, w = window.x
    return encoded_pixels(
        Pixels(place, (n, h, w, c), window.x_strides, _lower(window), _upper(window),
               window.stride, form.block_k, rows), box,
    )


def _columns(spec: LayerSpec, weights: Weights, problem: Problem, form: ProductForm) -> Encoded:
    """The map of the weights as [n, k], or [n, taps and channels]."""
    _, rows = form.box_rows
    item = problem.dtype.itemsize_bytes
    box = Box(_ELEMENTS[problem.dtype], item, _SWIZZLES[form.row_bytes], (rows, form.block_k))
    if problem.product is not None:
        pitch = packed_pitch(problem.product)
        packed = packed_rows(spec, weights, problem.product)
        return encoded_map(Matrix(packed, (problem.n, problem.k), (pitch, 1)), box)
    name, block = spec.constants[1], form.block_k
    assert name is not None

    def pack(array: Any) -> Any:
        rows = np.moveaxis(array, 1, -1)
        channels = [(0, 0)] * 3 + [(0, -array.shape[1] % block)]
        return np.pad(rows, channels).reshape(array.shape[0], -1)

    depth = problem.steps * block
    taps = Packed(packed_constant(weights, name, f"taps by {block}", pack))
    return encoded_map(Matrix(taps, (problem.n, depth), (depth, 1)), box)


def _pitch(stride: int, columns: int, itemsize_bytes: int) -> int:
    """A row's stride; of a single row some multiple of 16 bytes, which nobody uses."""
    step = 16 // itemsize_bytes
    return stride or math.ceil(columns / step) * step
