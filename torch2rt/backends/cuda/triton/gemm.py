"""Matrix products by our Triton kernels: the product a layer is, tiles for it, its launch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.backends.cuda.constants import operand, packed_constant
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.float8_sums import sums_refusal
from torch2rt.backends.cuda.launch import In, Out, Packed
from torch2rt.backends.cuda.triton.kernel import Value, triton_kernel
from torch2rt.backends.cuda.triton.launch import extra_kinds, extra_types, finish, part_types
from torch2rt.backends.cuda.triton.operands import (
    MAX_EXTRAS,
    TRITON_TYPES,
    Axis,
    Extra,
    aligned_strides,
    classify_extra,
    fold,
    make_program,
    result_bytes,
)
from torch2rt.backends.cuda.triton.tensor_map import Matrix
from torch2rt.backends.cuda.triton.tiles import Tile, Work, dot_precision, product_rate
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.network.dtype import DType

GROUP = 8
# Products of float8 that are summed before they go to float32, where that is asked for.
_EXACT_TERMS = 128
# Up to so many rows, a layer waits for its weights more than it computes.
FEW_ROWS = 1024


@dataclass(frozen=True)
class Product:
    """y[outer, inner, m, n] = epilogue(sum over k of a[..., m, k] b[..., k, n]).

    Strides in elements: ``a`` over outer, inner, m, k; ``b`` over outer, inner, k, n; ``y`` over
    outer, inner, m; its n is dense. ``pack`` makes a constant b row-major [n, k]. ``b_dtype`` is
    int8 beside floats where weights are stored in 8 bits.
    """

    batch: tuple[int, int]
    m: int
    n: int
    k: int
    a: tuple[int, int, int, int]
    b: tuple[int, int, int, int]
    y: tuple[int, int, int]
    extras: tuple[Extra, ...]
    dtype: DType
    b_dtype: DType
    out_dtype: DType
    is_tf32: bool
    pack: Callable[[Any], Any] | None

    @property
    def precision(self) -> str:
        """How operands are multiplied."""
        return dot_precision(self.dtype, self.is_tf32)

    def work(self) -> Work:
        """What the model of time looks at."""
        item, count = self.dtype.itemsize_bytes, math.prod(self.batch)
        results = result_bytes(self.out_dtype, self.extras)
        b_count = count if any(self.b[:2]) else 1
        columns = b_count * self.n * self.b_dtype.itemsize_bytes
        moved = (count * self.m * item + columns) * self.k + count * self.m * self.n * results
        rate = product_rate(self.dtype, self.is_tf32)
        return Work(self.m, self.n, self.k, count, item, moved, results, rate)


def find_product(
    spec: LayerSpec, shape: Sequence[int], k: int, a: Sequence[int], b: Sequence[int],
    columns_axis: int, pack: Callable[[Any], Any] | None, is_tf32: bool,
) -> Product | Refusal:
    """The product of a layer whose output has this shape, ``columns_axis`` being n.

    ``a`` and ``b`` are strides over the axes of ``shape`` (0 along n and m) and then k; those of y
    and the epilogue's operands follow from the spec.
    """
    y = spec.outputs[0].strides
    first = spec.main_count
    extras = [aligned_strides(extra, shape) for extra in spec.inputs[first:]]
    axes = [
        Axis(size, (a[i], b[i], y[i], *(extra[i] for extra in extras)))
        for i, size in enumerate(shape) if i != columns_axis
    ]
    folded = fold(axes)
    n = shape[columns_axis]
    if len(folded) > 3:
        return Refusal(f"{len(folded)} axes of rows that cannot be seen as three")
    none = Axis(1, (0,) * (3 + len(extras)))
    outer, inner, rows = [none] * (3 - len(folded)) + folded
    if y[columns_axis] != 1 and n > 1:
        return Refusal("the output's columns are not dense")
    found = []
    for i, strides in enumerate(extras):
        over = (outer.strides[3 + i], inner.strides[3 + i], rows.strides[3 + i])
        dtype = spec.inputs[first + i].dtype
        extra = classify_extra(first + i, dtype, over, strides[columns_axis], n)
        if extra is None:
            return Refusal(f"epilogue operand {i + 1} is one value per row")
        found.append(extra)
    over_a, over_b, over_y = (
        (outer.strides[i], inner.strides[i], rows.strides[i]) for i in range(3)
    )
    if over_b[2] != 0:
        return Refusal("the right operand changes from row to row")
    return Product(
        (outer.size, inner.size), rows.size, n, k, (*over_a, a[-1]),
        (*over_b[:2], b[-1], b[columns_axis]), over_y, tuple(found), spec.inputs[0].dtype,
        spec.inputs[1].dtype, spec.outputs[0].dtype, is_tf32, pack,
    )


# ---- through tensor maps --------------------------------------------------------------------


def map_refusal(product: Product) -> Refusal | None:
    """Why the copy engine cannot feed this product."""
    item, out = product.dtype.itemsize_bytes, product.out_dtype.itemsize_bytes
    if product.batch != (1, 1):
        return Refusal("a batch of products")
    if product.b_dtype is not product.dtype:
        return Refusal("weights stored in 8 bits, which are converted in registers")
    if product.dtype is DType.FLOAT32 and not product.is_tf32:
        return Refusal("float32 products, not rounded to TF32")
    if product.a[3] != 1 or product.a[2] * item % 16:
        return Refusal("rows of the left operand are not dense, at multiples of 16 bytes")
    if product.y[2] * out % 16:
        return Refusal("rows of the output are not at multiples of 16 bytes")
    if not all(extra_takes_map(extra) for extra in product.extras):
        return Refusal("rows of an epilogue operand are not at multiples of 16 bytes")
    return None if product.pack is not None else _right_map_refusal(product)


def extra_takes_map(extra: Extra) -> bool:
    """Whether an epilogue operand can be mapped, or need not be."""
    pitch_bytes = extra.strides[2] * extra.dtype.itemsize_bytes
    return extra.kind != "matrix" or (pitch_bytes > 0 and pitch_bytes % 16 == 0)


def _right_map_refusal(product: Product) -> Refusal | None:
    _, _, k_stride, n_stride = product.b
    pitch_bytes = max(k_stride, n_stride) * product.dtype.itemsize_bytes
    if min(k_stride, n_stride) != 1 or pitch_bytes % 16:
        return Refusal("rows of the right operand are not dense, at multiples of 16 bytes")
    if product.dtype.itemsize_bytes != 2 and k_stride != 1:
        return Refusal("a right operand whose k is not dense, not of 16 bits")
    return None


def prepare_maps(
    spec: LayerSpec, weights: Weights, product: Product, tile: Tile
) -> Prepared:
    """The launch of gemm_tma, or of gemm_tma_split when blocks share a tile."""
    kernel = "gemm_tma_split" if tile.parts > 1 else "gemm_tma"
    block_k = tile.block_k(product.dtype.itemsize_bytes)
    element = TRITON_TYPES[product.dtype]
    is_rows = product.pack is not None or product.b[2] == 1
    right_box = f"{tile.n}, {block_k}" if is_rows else f"{block_k}, {tile.n}"
    kinds = extra_kinds(product.extras, "map")
    stored = f"{tile.m}, {tile.n // tile.halves}"
    types = [
        ("a", f"tensordesc<{element}[{tile.m}, {block_k}]>"),
        ("b", f"tensordesc<{element}[{right_box}]>"),
        ("y", f"tensordesc<{TRITON_TYPES[product.out_dtype]}[{stored}]>"),
        *extra_types(product.extras, kinds, stored),
    ]
    constants: dict[str, Value] = {f"E{i + 1}": kind for i, kind in enumerate(kinds)}
    constants |= {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": block_k, "GROUP": GROUP}
    if tile.parts == 1:
        constants |= {"HALVES": tile.halves, "IS_PERSISTENT": tile.is_persistent}
    constants |= {"B_IS_ROWS": is_rows, "PRECISION": product.precision}
    constants |= {"SUM_TERMS": _sum_terms(spec, weights, product, block_k), "OVERLAPS": True}
    if tile.parts > 1:
        types += part_types(tile, product.dtype)
        constants["PARTS"] = tile.parts
    lines = lines_argument(spec, weights, product)
    types.append(("weights", "*i8" if lines else "constexpr"))
    sizes = {
        "m": product.m, "n": product.n, "k": product.k,
        "weights_pitch": packed_pitch(product) * product.dtype.itemsize_bytes if lines else 0,
    }
    program, numbers = make_program(
        spec, kernel, kernel, types, sizes, constants, tile.warps, tile.stages
    )
    compiled = triton_kernel(weights, program)
    m, n, k = product.m, product.n, product.k
    arguments = [
        Matrix(operand(spec, weights, 0), (m, k), (product.a[2] or _round_up(k), 1)),
        _right_map(spec, weights, product, is_rows),
        Matrix(Out(0), (m, n), (product.y[2] or _round_up(n), 1)),
        *(
            Matrix(operand(spec, weights, extra.index), (m, n), (extra.strides[2], 1))
            if extra.kind == "matrix" else operand(spec, weights, extra.index)
            for extra in product.extras
        ),
    ]
    tiles = math.ceil(m / tile.m) * math.ceil(n / tile.n)
    return finish(
        spec, compiled, tile, arguments, [*lines, *numbers], tiles, 1, product.extras,
        is_persistent=tile.is_persistent,
    )


def _sum_terms(spec: LayerSpec, weights: Weights, product: Product, block_k: int) -> int | None:
    """Products of float8 that tensor cores may sum; None: all, as for most weights."""
    name, pack = spec.constants[1], product.pack
    if product.dtype is not DType.FLOAT8_E4M3 or name is None or pack is None:
        return None
    if current_device().capability != (9, 0) or sums_refusal(pack(weights.array(name))) is None:
        return None
    return min(block_k, _EXACT_TERMS)


def _round_up(count: int) -> int:
    """A pitch for a single row: nobody uses it, but the driver wants one."""
    return count + -count % 16


def _right_map(spec: LayerSpec, weights: Weights, product: Product, is_rows: bool) -> Matrix:
    n, k = product.n, product.k
    if product.pack is not None:
        return Matrix(packed_rows(spec, weights, product), (n, k), (packed_pitch(product), 1))
    place_of_b = operand(spec, weights, 1)
    if is_rows:
        return Matrix(place_of_b, (n, k), (product.b[3] or _round_up(k), 1))
    return Matrix(place_of_b, (k, n), (product.b[2] or _round_up(n), 1))


def lines_argument(spec: LayerSpec, weights: Weights, product: Product) -> list[Packed]:
    """The weights by address, where it pays to fetch them before the kernel ahead has ended."""
    if product.pack is None or product.m > FEW_ROWS:
        return []
    return [packed_rows(spec, weights, product)]


def packed_pitch(product: Product) -> int:
    """Elements from one row of the packed right operand to the next: a multiple of 16 bytes."""
    return product.k + -product.k % (16 // product.b_dtype.itemsize_bytes)


def packed_rows(spec: LayerSpec, weights: Weights, product: Product) -> Packed:
    """The constant right operand as [n, k]."""
    name, pack, pitch = spec.constants[1], product.pack, packed_pitch(product)
    assert name is not None
    assert pack is not None

    def pad(array: Any) -> Any:
        rows = pack(array)
        return np.pad(rows, ((0, 0), (0, pitch - rows.shape[1])))

    # The form says where k lies in the stored array, which the kind and the shape tell.
    form = f"rows {product.n}x{product.k}:{pitch} of {spec.kind.name}"
    form += "" if product.b[2] == 1 else " transposed"
    return Packed(packed_constant(weights, name, form, pad))


# ---- through pointers -----------------------------------------------------------------------


def prepare_pointers(
    spec: LayerSpec, weights: Weights, product: Product, tile: Tile
) -> Prepared:
    """The launch of gemm."""
    block_k = tile.block_k(product.dtype.itemsize_bytes)
    kinds = extra_kinds(product.extras, "matrix")
    element = TRITON_TYPES[product.dtype]
    types = [
        ("a", f"*{element}"), ("b", f"*{TRITON_TYPES[product.b_dtype]}"),
        ("y", f"*{TRITON_TYPES[product.out_dtype]}"),
        *extra_types(product.extras, kinds, ""), *part_types(tile, product.dtype),
    ]
    place_of_b: In | Packed
    if product.pack is not None:
        place_of_b = packed_rows(spec, weights, product)
        b = (0, 0, 1, packed_pitch(product))
    else:
        place_of_b, b = operand(spec, weights, 1), product.b
    over = [extra.strides for extra in product.extras]
    over += [(0, 0, 0)] * (MAX_EXTRAS - len(over))
    sizes = {
        "m": product.m, "n": product.n, "k": product.k, "inner": product.batch[1],
        "a_row": product.a[2], "a_k": product.a[3], "b_k": b[2], "b_column": b[3],
        "y_row": product.y[2], **{f"e{i + 1}_row": over[i][2] for i in range(MAX_EXTRAS)},
        "a_outer": product.a[0], "a_inner": product.a[1], "b_outer": b[0], "b_inner": b[1],
        "y_outer": product.y[0], "y_inner": product.y[1],
    }
    for i in range(MAX_EXTRAS):
        sizes |= {f"e{i + 1}_outer": over[i][0], f"e{i + 1}_inner": over[i][1]}
    constants: dict[str, Value] = {f"E{i + 1}": kind for i, kind in enumerate(kinds)}
    constants |= {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": block_k, "GROUP": GROUP}
    constants |= {
        "IS_EVEN_K": product.k % block_k == 0, "PRECISION": product.precision,
        "SUM_TERMS": _sum_terms(spec, weights, product, block_k),
        "OVERLAPS": current_device().capability >= (9, 0), "PARTS": tile.parts,
    }
    program, numbers = make_program(
        spec, "gemm", "gemm", types, sizes, constants, tile.warps, tile.stages
    )
    compiled = triton_kernel(weights, program)
    arguments = [
        operand(spec, weights, 0), place_of_b, Out(0),
        *(operand(spec, weights, extra.index) for extra in product.extras),
    ]
    tiles = math.ceil(product.m / tile.m) * math.ceil(product.n / tile.n)
    return finish(
        spec, compiled, tile, arguments, numbers, tiles, math.prod(product.batch), product.extras,
        is_persistent=False,
    )
