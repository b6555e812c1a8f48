"""Our convolution kernels, each in the sizes of tile that are worth timing."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.convolution.depthwise import DepthwiseTactic
from torch2rt.backends.cuda.cpp.convolution.patch import GroupedTactic, StemTactic


class Depthwise1x1(DepthwiseTactic):
    """A pixel of few channels per thread: the most threads, for small images and large windows."""

    name: ClassVar[str] = "convolution.cuda.depthwise_1x1"
    tile: ClassVar[tuple[int, int]] = (1, 1)
    vector: ClassVar[int] = 4


class Depthwise2x2(DepthwiseTactic):
    """Four pixels per thread."""

    name: ClassVar[str] = "convolution.cuda.depthwise_2x2"
    tile: ClassVar[tuple[int, int]] = (2, 2)
    vector: ClassVar[int] = 8


class Depthwise2x4(DepthwiseTactic):
    """Two rows of four pixels per thread."""

    name: ClassVar[str] = "convolution.cuda.depthwise_2x4"
    tile: ClassVar[tuple[int, int]] = (2, 4)
    vector: ClassVar[int] = 8


class Depthwise4x4(DepthwiseTactic):
    """Four rows of four pixels of fewer channels per thread."""

    name: ClassVar[str] = "convolution.cuda.depthwise_4x4"
    tile: ClassVar[tuple[int, int]] = (4, 4)
    vector: ClassVar[int] = 4


class Depthwise2x7(DepthwiseTactic):
    """Rows of seven: the sizes of classifiers' images are multiples."""

    name: ClassVar[str] = "convolution.cuda.depthwise_2x7"
    tile: ClassVar[tuple[int, int]] = (2, 7)
    vector: ClassVar[int] = 4


class Stem64(StemTactic):
    """Tiles of 64 pixels: the most blocks."""

    name: ClassVar[str] = "convolution.cuda.stem_64"
    pixels: ClassVar[int] = 64


class Stem128(StemTactic):
    """Tiles of 128 pixels."""

    name: ClassVar[str] = "convolution.cuda.stem_128"
    pixels: ClassVar[int] = 128


class Stem256(StemTactic):
    """Tiles of 256 pixels: weights are loaded least often."""

    name: ClassVar[str] = "convolution.cuda.stem_256"
    pixels: ClassVar[int] = 256


class Grouped64(GroupedTactic):
    """Tiles of 64 pixels of one group."""

    name: ClassVar[str] = "convolution.cuda.grouped_64"
    pixels: ClassVar[int] = 64


class Grouped256(GroupedTactic):
    """Tiles of 256 pixels of one group."""

    name: ClassVar[str] = "convolution.cuda.grouped_256"
    pixels: ClassVar[int] = 256
