"""Images cut into patches by our Triton kernel: few channels, no padding, runs of pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from torch2rt.backends.cuda.constants import operand, packed_constant
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import Out, Packed
from torch2rt.backends.cuda.triton.convolution import Window
from torch2rt.backends.cuda.triton.gemm import GROUP
from torch2rt.backends.cuda.triton.kernel import Value, triton_kernel
from torch2rt.backends.cuda.triton.launch import extra_kinds, extra_types, finish, part_types
from torch2rt.backends.cuda.triton.operands import (
    MAX_EXTRAS,
    TRITON_TYPES,
    make_program,
    result_bytes,
)
from torch2rt.backends.cuda.triton.tiles import Tile, Work, product_rate
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Unprepared, Weights
from torch2rt.layers.convolution import Convolution

_MAX_CHANNELS = 15


def patches_refusal(spec: LayerSpec, window: Window) -> Refusal | None:
    """Why a convolution, its layouts chosen, is not made of runs of pixels."""
    kind, x = spec.kind, spec.inputs[0]
    assert isinstance(kind, Convolution)
    if any(kind.padding_before) or any(kind.padding_after) or window.dilation != (1, 1):
        return Refusal("padding or dilation")
    if window.x[1] > _MAX_CHANNELS:
        return Refusal(f"more than {_MAX_CHANNELS} channels need no runs of pixels")
    if window.row_strides is None:
        return Refusal("pixels of the output or of an epilogue operand are not evenly spaced")
    pixel = window.x[1] if x.strides[1] == 1 else 1
    if x.strides[3] != pixel:
        return Refusal("pixels of a row of the input are not dense")
    return None


def patches_work(window: Window) -> Work:
    """What the model of time looks at."""
    item = window.dtype.itemsize_bytes
    depth = window.taps * window.x[1]
    results = result_bytes(window.out_dtype, window.extras)
    factors = math.prod(window.x) + depth * window.y[1]
    moved = factors * item + math.prod(window.y) * results
    rate = product_rate(window.dtype, window.is_tf32)
    return Work(window.pixels, window.y[1], depth, 1, item, moved, results, rate)


def prepare_patches(spec: LayerSpec, weights: Weights, window: Window, tile: Tile) -> Prepared:
    """The launch of patches."""
    if window.row_strides is None:
        raise Unprepared("pixels are not evenly spaced")
    (_, c, _, _), (_, k, p, q) = window.x, window.y
    x_image, x_channel, x_row, x_column = spec.inputs[0].strides
    is_last = x_channel == 1
    run = window.kernel[1] * (c if is_last else 1)
    depth = window.taps * c
    item = window.dtype.itemsize_bytes
    pitch = depth + -depth % (16 // item)
    kinds = extra_kinds(window.extras, "matrix")
    element = TRITON_TYPES[window.dtype]
    types = [
        ("x", f"*{element}"), ("w", f"*{element}"), ("y", f"*{TRITON_TYPES[window.out_dtype]}"),
        *extra_types(window.extras, kinds, ""), *part_types(tile, window.dtype),
    ]
    rows = [*window.row_strides, *[0] * MAX_EXTRAS]
    sizes = {
        "m": window.pixels, "k": k, "depth": depth, "pitch": pitch, "pixels": p * q,
        "columns_out": q, "x_image": x_image,
        # With channels last, k has no axis of channels; 0 tells the compiler so.
        "x_channel": 0 if is_last else x_channel, "x_row": x_row,
        "row_step": x_row * window.stride[0], "column_step": x_column * window.stride[1],
        "y_row": rows[0], "e1_row": rows[1], "e2_row": rows[2], "e3_row": rows[3],
    }
    constants: dict[str, Value] = {f"E{i + 1}": kind for i, kind in enumerate(kinds)}
    constants |= {
        "R": window.kernel[0], "RUN": run, "BLOCK_M": tile.m, "BLOCK_N": tile.n,
        "BLOCK_K": tile.block_k(item), "GROUP": GROUP, "PRECISION": window.precision,
        "OVERLAPS": current_device().capability >= (9, 0), "PARTS": tile.parts,
    }
    program, numbers = make_program(
        spec, "patches", "patches", types, sizes, constants, tile.warps, tile.stages
    )
    arguments = [
        operand(spec, weights, 0), _packed(spec, weights, pitch, is_last), Out(0),
        *(operand(spec, weights, extra.index) for extra in window.extras),
    ]
    tiles = math.ceil(window.pixels / tile.m) * math.ceil(k / tile.n)
    return finish(
        spec, triton_kernel(weights, program), tile, arguments, numbers, tiles, 1, window.extras,
        is_persistent=False,
    )


def _packed(spec: LayerSpec, weights: Weights, pitch: int, is_last: bool) -> Packed:
    """The weights as [k, depth], in the order of a window's elements in x."""
    name = spec.constants[1]
    assert name is not None

    def pack(array: Any) -> Any:
        ordered = np.moveaxis(array, 1, -1) if is_last else array
        rows = ordered.reshape(len(array), -1)
        return np.pad(rows, ((0, 0), (0, pitch - rows.shape[1])))

    form = f"patches {pitch} {'last' if is_last else 'first'}"
    return Packed(packed_constant(weights, name, form, pack))
