"""Convolutions over two axes by our Triton kernels: what a layer is, tiles for it, its launch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from torch2rt.backends.cuda.constants import operand, packed_constant
from torch2rt.backends.cuda.device import Device, current_device
from torch2rt.backends.cuda.launch import Out, Packed
from torch2rt.backends.cuda.triton.gemm import FEW_ROWS, GROUP
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
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Unprepared, Weights
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import DType

_LARGEST_BOX = 256


@dataclass(frozen=True)
class Window:
    """A convolution of x [n, c, h, w] to y [n, k, p, q] in one group.

    Strides are over n and the two axes of pixels; ``extra_steps`` are those of each epilogue
    operand. ``row_strides``: from pixel to pixel, of y and each operand.
    """

    x: tuple[int, int, int, int]
    y: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    x_strides: tuple[int, int, int]
    y_strides: tuple[int, int, int]
    extras: tuple[Extra, ...]
    extra_steps: tuple[tuple[int, int, int], ...]
    row_strides: tuple[int, ...] | None
    dtype: DType
    out_dtype: DType
    is_tf32: bool

    @property
    def precision(self) -> str:
        """How operands are multiplied."""
        return dot_precision(self.dtype, self.is_tf32)

    @property
    def pixels(self) -> int:
        """Pixels of y."""
        return self.y[0] * self.y[2] * self.y[3]

    @property
    def taps(self) -> int:
        """Pixels of the kernel."""
        return math.prod(self.kernel)

    def work(self, tile: Tile, rows: int) -> Work:
        """What the model of time looks at; ``rows``: pixels that whole tiles cover."""
        item = self.dtype.itemsize_bytes
        block = tile.block_k(item)
        k = self.taps * (self.x[1] + -self.x[1] % block)
        results = result_bytes(self.out_dtype, self.extras)
        factors = math.prod(self.x) + k * self.y[1]
        moved = factors * item + math.prod(self.y) * results
        rate = product_rate(self.dtype, self.is_tf32)
        return Work(rows, self.y[1], k, 1, item, moved, results, rate)


def find_window(spec: LayerSpec) -> Window | Refusal:
    """The window of a convolution layer whose layouts are chosen; y has channels innermost."""
    kind, x, y = spec.kind, spec.inputs[0], spec.outputs[0]
    assert isinstance(kind, Convolution)
    if len(kind.stride) != 2 or kind.groups != 1:
        return Refusal(f"{len(kind.stride)} spatial axes, {kind.groups} groups")
    if spec.constants[1] is None:
        return Refusal("weights that are not constant")
    extras, steps = [], []
    for index in range(spec.main_count, len(spec.inputs)):
        over_n, over_k, over_p, over_q = aligned_strides(spec.inputs[index], y.shape)
        steps.append((over_n, over_p, over_q))
        extra = classify_extra(
            index, spec.inputs[index].dtype, steps[-1], over_k, y.shape[1]
        )
        if extra is None:
            return Refusal(f"epilogue operand {index} is one value per pixel")
        extras.append(extra)
    if y.strides[1] != 1 and y.shape[1] > 1:
        return Refusal("channels of the output are not innermost")
    return Window(
        _four(x.shape), _four(y.shape), _two(spec.inputs[1].shape[2:]), _two(kind.stride),
        _two(kind.padding_before), _two(kind.dilation), _three(x), _three(y), tuple(extras),
        tuple(steps), _row_strides(y, steps), x.dtype, y.dtype, kind.tf32,
    )


def _row_strides(y: TensorSpec, steps: Sequence[tuple[int, int, int]]) -> tuple[int, ...] | None:
    """Strides of y and of each operand from pixel to pixel, if all pixels are evenly spaced."""
    over = aligned_strides(y, y.shape)
    axes = [
        Axis(y.shape[axis], (over[axis], *(step[i] for step in steps)))
        for i, axis in enumerate((0, 2, 3))
    ]
    folded = fold(axes) or [Axis(1, (0,) * (1 + len(steps)))]
    return folded[0].strides if len(folded) == 1 else None


def _three(spec: TensorSpec) -> tuple[int, int, int]:
    return spec.strides[0], spec.strides[2], spec.strides[3]


def _two(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def _four(values: Sequence[int]) -> tuple[int, int, int, int]:
    n, c, h, w = values
    return n, c, h, w


# ---- gathered through pointers ---------------------------------------------------------------


def gather_refusal(window: Window) -> Refusal | None:
    """Why pixels cannot be gathered through pointers."""
    if window.row_strides is None:
        return Refusal("pixels of the output or of an epilogue operand are not evenly spaced")
    return None


def prepare_gather(spec: LayerSpec, weights: Weights, window: Window, tile: Tile) -> Prepared:
    """The launch of convolution."""
    block_k = tile.block_k(window.dtype.itemsize_bytes)
    if window.row_strides is None:
        raise Unprepared("pixels are not evenly spaced")
    (_, c, h, w), (_, k, p, q) = window.x, window.y
    channels = c + -c % block_k
    kinds = extra_kinds(window.extras, "matrix")
    element = TRITON_TYPES[window.dtype]
    types = [
        ("x", f"*{element}"), ("w", f"*{element}"), ("y", f"*{TRITON_TYPES[window.out_dtype]}"),
        *extra_types(window.extras, kinds, ""), *part_types(tile, window.dtype),
    ]
    rows = [*window.row_strides, *[0] * MAX_EXTRAS]
    sizes = {
        "m": window.pixels, "k": k, "c": c, "channels": channels, "pixels": p * q,
        "columns_out": q, "rows_in": h, "columns_in": w, "x_image": window.x_strides[0],
        "x_row": window.x_strides[1], "x_column": window.x_strides[2], "y_row": rows[0],
        "e1_row": rows[1], "e2_row": rows[2], "e3_row": rows[3],
    }
    constants: dict[str, Value] = {f"E{i + 1}": kind for i, kind in enumerate(kinds)}
    constants |= {"R": window.kernel[0], "S": window.kernel[1]}
    constants |= {"STRIDE_H": window.stride[0], "STRIDE_W": window.stride[1]}
    constants |= _tap_constants(window)
    constants |= {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": block_k, "GROUP": GROUP}
    constants |= {
        "IS_EVEN_C": channels == c, "PRECISION": window.precision,
        "OVERLAPS": current_device().capability >= (9, 0), "PARTS": tile.parts,
    }
    program, numbers = make_program(
        spec, "convolution", "convolution", types, sizes, constants, tile.warps, tile.stages
    )
    arguments = [
        operand(spec, weights, 0), _packed(spec, weights, channels), Out(0),
        *(operand(spec, weights, extra.index) for extra in window.extras),
    ]
    tiles = math.ceil(window.pixels / tile.m) * math.ceil(k / tile.n)
    return finish(
        spec, triton_kernel(weights, program), tile, arguments, numbers, tiles, 1, window.extras,
        is_persistent=False,
    )


def _tap_constants(window: Window) -> dict[str, Value]:
    return {
        "PAD_H": window.padding[0], "PAD_W": window.padding[1],
        "DILATION_H": window.dilation[0], "DILATION_W": window.dilation[1],
    }


def _packed(spec: LayerSpec, weights: Weights, channels: int) -> Packed:
    """The weights as [k, taps * channels], zeros behind c."""
    name = spec.constants[1]
    assert name is not None

    def pack(array: Any) -> Any:
        k, c = array.shape[:2]
        rows = np.moveaxis(array, 1, -1).reshape(k, -1, c)
        return np.pad(rows, ((0, 0), (0, 0), (0, channels - c))).reshape(k, -1)

    return Packed(packed_constant(weights, name, f"taps {channels}", pack))


# ---- boxes through tensor maps ---------------------------------------------------------------


def box_refusal(window: Window) -> Refusal | None:
    """Why the copy engine cannot feed this convolution."""
    item = window.dtype.itemsize_bytes
    if window.dtype is DType.FLOAT32 and not window.is_tf32:
        return Refusal("float32 products, not rounded to TF32")
    if window.stride not in ((1, 1), (2, 2)):
        return Refusal(f"stride {window.stride}")
    if window.stride == (2, 2) and (window.x[2] % 2 or window.x[3] % 2):
        return Refusal("stride 2 over an image of odd size")
    if any(stride * item % 16 for stride in (window.x[1], *window.x_strides)):
        return Refusal("pixels of the input are not at multiples of 16 bytes")
    if any(stride * window.out_dtype.itemsize_bytes % 16 for stride in window.y_strides):
        return Refusal("pixels of the output are not at multiples of 16 bytes")
    if not all(map(_takes_box, window.extras, window.extra_steps)):
        return Refusal("pixels of an epilogue operand are not at multiples of 16 bytes")
    return None


def _takes_box(extra: Extra, steps: tuple[int, int, int]) -> bool:
    item = extra.dtype.itemsize_bytes
    return extra.kind != "matrix" or all(step and step * item % 16 == 0 for step in steps)


def takes_tile(window: Window, tile: Tile) -> bool:
    """Whether boxes of this tile work: with stride 2, blocks of channels must fit c."""
    block_k = tile.block_k(window.dtype.itemsize_bytes)
    return window.stride == (1, 1) or window.x[1] % block_k == 0


@lru_cache(maxsize=4096)
def box_shape(images: int, rows: int, columns: int, size: int) -> tuple[int, int, int]:
    """The box of ``size`` pixels (powers of two) whose copies cover an image with least waste."""
    best: tuple[int, int, tuple[int, int, int]] | None = None
    for across in _powers(min(size, _LARGEST_BOX)):
        for down in _powers(size // across):
            box = (size // across // down, down, across)
            if max(box) > _LARGEST_BOX:
                continue
            covered = box_count(images, rows, columns, box) * size
            # Of equals, the one whose taps read the fewest other pixels.
            halo = (size // across // down) * (down + 2) * (across + 2)
            candidate = (covered, halo, box)
            best = candidate if best is None else min(best, candidate)
    assert best is not None
    return best[2]


def box_count(images: int, rows: int, columns: int, box: tuple[int, int, int]) -> int:
    """Boxes that cover all pixels."""
    pairs = zip((images, rows, columns), box, strict=True)
    return math.prod(math.ceil(total / size) for total, size in pairs)


def _powers(largest: int) -> list[int]:
    return [2**i for i in range(largest.bit_length())]


def prepare_box(spec: LayerSpec, weights: Weights, window: Window, tile: Tile) -> Prepared:
    """The launch of convolution_tma or, when blocks share a tile, of its other form."""
    block_k = tile.block_k(window.dtype.itemsize_bytes)
    (n, c, _, _), (_, k, p, q) = window.x, window.y
    box = box_shape(n, p, q, tile.m)
    text = ", ".join(map(str, box))
    step = window.stride[0]
    x_box = text if step == 1 else f"{box[0]}, {box[1]}, 1, {box[2]}"
    element = TRITON_TYPES[window.dtype]
    kinds = extra_kinds(window.extras, "map")
    types = [
        ("x", f"tensordesc<{element}[{x_box}, {block_k}]>"),
        ("w", f"tensordesc<{element}[{tile.n}, {block_k}]>"),
        ("y", f"tensordesc<{TRITON_TYPES[window.out_dtype]}[{text}, {tile.n}]>"),
        *extra_types(window.extras, kinds, f"{text}, {tile.n}"),
    ]
    constants: dict[str, Value] = {f"E{i + 1}": kind for i, kind in enumerate(kinds)}
    constants |= {"R": window.kernel[0], "S": window.kernel[1], "STRIDE": step}
    constants |= _tap_constants(window)
    constants |= {"IMAGES": box[0], "ROWS": box[1], "COLUMNS": box[2]}
    constants |= {"BLOCK_N": tile.n, "BLOCK_K": block_k, "GROUP": GROUP}
    constants |= {"PRECISION": window.precision, "OVERLAPS": True}
    name = "convolution_tma"
    if tile.parts > 1:
        name, types = "convolution_tma_split", types + part_types(tile, window.dtype)
        constants["PARTS"] = tile.parts
    depth = window.taps * c
    taps = _packed(spec, weights, c)
    # By address too, where it pays to fetch weights before the kernel ahead has ended.
    lines = [taps] if window.pixels <= FEW_ROWS else []
    types.append(("weights", "*i8" if lines else "constexpr"))
    sizes = {
        "images": n, "rows": p, "columns": q, "k": k, "c": c, "x_column": window.x_strides[2],
        "weights_pitch": depth * window.dtype.itemsize_bytes if lines else 0,
    }
    program, numbers = make_program(
        spec, "convolution_tma", name, types, sizes, constants, tile.warps, tile.stages
    )
    arguments = [
        _input_map(spec, weights, window),
        Matrix(taps, (k, depth), (depth, 1)),
        Matrix(Out(0), (n, p, q, k), (*window.y_strides, 1)),
        *(
            Matrix(operand(spec, weights, extra.index), (n, p, q, k), (*steps, 1))
            if extra.kind == "matrix" else operand(spec, weights, extra.index)
            for extra, steps in zip(window.extras, window.extra_steps, strict=True)
        ),
    ]
    tiles = box_count(n, p, q, box) * math.ceil(k / tile.n)
    return finish(
        spec, triton_kernel(weights, program), tile, arguments, [*lines, *numbers], tiles, 1,
        window.extras, is_persistent=tile.is_persistent,
    )


def _input_map(spec: LayerSpec, weights: Weights, window: Window) -> Matrix:
    n, c, h, w = window.x
    over_n, over_h, over_w = window.x_strides
    place = operand(spec, weights, 0)
    if window.stride == (1, 1):
        return Matrix(place, (n, h, w, c), (over_n, over_h, over_w, 1))
    return Matrix(
        place, (n, h // 2, 2, w // 2, over_w + c), (over_n, 2 * over_h, over_h, 2 * over_w, 1)
    )


# ---- which tiles -----------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def rank_windows(
    window: Window, device: Device, boxes: tuple[Tile, ...], gathers: tuple[Tile, ...],
    box_limit: int, gather_limit: int,
) -> tuple[tuple[Tile, bool], ...]:
    """The (tile, whether in boxes) that are worth compiling, the most promising first."""
    def best(
        tiles: Sequence[Tile], is_box: bool, limit: int, takes: Callable[[Tile], bool]
    ) -> list[tuple[Tile, bool]]:
        fitting = [
            tile for tile in tiles
            if takes(tile) and window.work(tile, tile.m).fits(tile, device, is_box)
        ]
        fitting.sort(key=lambda tile: estimate_window_us(window, tile, device, is_box))
        return [(tile, is_box) for tile in fitting[:limit]]

    in_boxes: list[tuple[Tile, bool]] = []
    if box_refusal(window) is None and device.capability >= (9, 0):
        in_boxes = best(boxes, True, box_limit, lambda tile: takes_tile(window, tile))
    if gather_refusal(window) is not None:
        return tuple(in_boxes)
    limit = gather_limit if in_boxes else box_limit + gather_limit
    return (*in_boxes, *best(gathers, False, limit, lambda tile: True))


def estimate_window_us(window: Window, tile: Tile, device: Device, is_box: bool) -> float:
    """Microseconds that a tile takes, roughly."""
    rows = window.pixels
    if is_box:
        n, _, p, q = window.y
        rows = box_count(n, p, q, box_shape(n, p, q, tile.m)) * tile.m
    return window.work(tile, rows).estimate_us(tile, device, is_box)
