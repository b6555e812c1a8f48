"""Tensor maps: how the copy engine of sm_90 and newer is told where a tensor's boxes lie."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch2rt.backends.cuda.launch import Encoded, Place
from torch2rt.backends.cuda.libraries import load_library

SIZE_BYTES = 128
MAX_RANK = 5
_L2_PROMOTION_128B = 2
_Encode = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Box:
    """What a compiled kernel expects of a map: element type and swizzle by the driver's numbers.

    ``shape``: sizes of a box, outermost axis first. ``element``: CUtensorMapDataType.
    """

    element: int
    itemsize_bytes: int
    swizzle: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor to be mapped: sizes and strides in elements, outermost axis first.

    The last axis is dense; addresses and the other strides are multiples of 16 bytes.
    """

    place: Place
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def encoded_map(matrix: Matrix, box: Box) -> Encoded:
    """The kernel parameter that maps a tensor."""
    return Encoded(matrix.place, SIZE_BYTES, lambda address: encode_map(address, matrix, box))


def encode_map(address: int, matrix: Matrix, box: Box) -> bytes:
    """The driver's 128 bytes for a tensor at an address. ValueError when it refuses."""
    rank = len(box.shape)
    shape = (ctypes.c_uint64 * rank)(*reversed(matrix.shape))
    strides = (ctypes.c_uint64 * rank)(
        *(stride * box.itemsize_bytes for stride in reversed(matrix.strides[:-1]))
    )
    sizes = (ctypes.c_uint32 * rank)(*reversed(box.shape))
    steps = (ctypes.c_uint32 * rank)(*[1] * rank)
    raw = ctypes.create_string_buffer(SIZE_BYTES + 64)
    start = -ctypes.addressof(raw) % 64
    no_interleave, zeros_outside = 0, 0
    status = _encode_tiled()(
        ctypes.addressof(raw) + start, box.element, rank, address, shape, strides, sizes, steps,
        no_interleave, box.swizzle, _L2_PROMOTION_128B, zeros_outside,
    )
    if status:
        raise ValueError(f"the driver refuses (status {status}) to map {matrix} in {box}")
    return raw.raw[start : start + SIZE_BYTES]


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image [n, h, w, c] whose pixels are gathered for a convolution's taps (im2col).

    ``strides`` over n, h and w in elements. The corners of the taps' first pixels run from
    ``lower`` (h, w) to ``upper`` beyond the last pixel, by ``steps``. A load moves ``channels``
    of ``pixels`` of them.
    """

    place: Place
    shape: tuple[int, int, int, int]
    strides: tuple[int, int, int]
    lower: tuple[int, int]
    upper: tuple[int, int]
    steps: tuple[int, int]
    channels: int
    pixels: int


def encoded_pixels(image: Pixels, box: Box) -> Encoded:
    """The kernel parameter that maps an image; of ``box`` the element and the swizzle count."""
    return Encoded(image.place, SIZE_BYTES, lambda address: encode_pixels(address, image, box))


def encode_pixels(address: int, image: Pixels, box: Box) -> bytes:
    """The driver's 128 bytes for an image at an address. ValueError when it refuses."""
    shape = (ctypes.c_uint64 * 4)(*reversed(image.shape))
    strides = (ctypes.c_uint64 * 3)(
        *(stride * box.itemsize_bytes for stride in reversed(image.strides))
    )
    lower = (ctypes.c_int * 2)(*reversed(image.lower))
    upper = (ctypes.c_int * 2)(*reversed(image.upper))
    steps = (ctypes.c_uint32 * 4)(1, image.steps[1], image.steps[0], 1)
    raw = ctypes.create_string_buffer(SIZE_BYTES + 64)
    start = -ctypes.addressof(raw) % 64
    no_interleave, zeros_outside = 0, 0
    status = _encode_im2col()(
        ctypes.addressof(raw) + start, box.element, 4, address, shape, strides, lower, upper,
        image.channels, image.pixels, steps, no_interleave, box.swizzle, _L2_PROMOTION_128B,
        zeros_outside,
    )
    if status:
        raise ValueError(f"the driver refuses (status {status}) to map {image}")
    return raw.raw[start : start + SIZE_BYTES]


@cache
def _encode_im2col() -> Any:
    function = load_library("cuda").cuTensorMapEncodeIm2col
    pointer = ctypes.c_void_p
    function.argtypes = [
        pointer, ctypes.c_int, ctypes.c_uint32, *[pointer] * 5, ctypes.c_uint32, ctypes.c_uint32,
        pointer, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int,
    ]
    return function


@cache
def _encode_tiled() -> Any:
    function = load_library("cuda").cuTensorMapEncodeTiled
    pointer = ctypes.c_void_p
    function.argtypes = [
        pointer, ctypes.c_int, ctypes.c_uint32, pointer, pointer, pointer, pointer, pointer,
        ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int,
    ]
    return function
