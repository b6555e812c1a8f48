"""What one call of a compiled kernel computes, and how an image is covered by such tiles.

A tile is some neighbouring pixels of a row of the output, for a panel of output channels. Taps of
the window that fall outside the image are left out, so tiles at the left and right border have
kernels of their own; above and below, a tile has fewer rows of taps. Where the window is a single
pixel, rows follow one another without a gap, and the image is covered as if it were one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from torch2rt.layers.convolution import Convolution


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a convolution of one image, channels last, in pixels.

    ``pixel_bytes`` is the distance of pixels of the input, ``channels`` what a tap reads of one.
    """

    channels: int
    out_channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    window: tuple[int, int]
    pixel_bytes: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def is_product(self) -> bool:
        """Whether output pixel i needs input pixel i alone."""
        return self.window == self.stride == (1, 1) and self.padding == (0, 0) and (
            (self.height, self.width) == (self.out_height, self.out_width)
        )

    def as_row(self, images: int = 1) -> Geometry:
        """So many images as one row of pixels; needs `is_product`."""
        pixels = images * self.height * self.width
        return replace(self, height=1, width=pixels, out_height=1, out_width=pixels)


def geometry(
    kind: Convolution, given: tuple[int, ...], made: tuple[int, ...], window: tuple[int, ...]
) -> Geometry:
    """Of a layer with input [n, c, h, w], output [n, k, h, w] and weights [k, c, r, s]."""
    stride, dilation = kind.stride, kind.dilation
    before = kind.padding_before
    return Geometry(
        given[1], made[1], given[2], given[3], made[2], made[3], (window[2], window[3]),
        given[1], (stride[0], stride[1]), (before[0], before[1]), (dilation[0], dilation[1]),
    )


@dataclass(frozen=True, slots=True)
class Run:
    """Taps ``first`` ... ``first + count - 1`` of a row of the window, for the same pixels.

    The pixels are ``begin`` ... ``end - 1`` of the tile.
    """

    first: int
    count: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Span:
    """Columns of the output that a tile covers, and the taps of a row of the window it needs."""

    start: int
    pixels: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """A span in row ``y`` of the output, with taps ``first`` ... ``first + rows - 1`` downwards."""

    span: Span
    y: int
    first: int
    rows: int


def spans(shape: Geometry, most: int) -> list[Span]:
    """A row of the output in nearly equal parts of at most so many pixels."""
    parts = -(-shape.out_width // most)
    edges = [part * shape.out_width // parts for part in range(parts + 1)]
    return [
        Span(start, end - start, tuple(_runs(shape, start, end)))
        for start, end in pairwise(edges)
    ]


def _runs(shape: Geometry, start: int, end: int) -> Iterator[Run]:
    """Taps that need the same pixels of columns ``start`` to ``end``, together if they touch."""
    last: Run | None = None
    for tap in range(shape.window[1]):
        shift = tap * shape.dilation[1] - shape.padding[1]
        inside = [
            x - start for x in range(start, end) if 0 <= x * shape.stride[1] + shift < shape.width
        ]
        if not inside:
            continue
        run = Run(tap, 1, inside[0], inside[-1] + 1)
        touches = shape.dilation[1] == 1 and last is not None and last.first + last.count == tap
        if last is not None and touches and (last.begin, last.end) == (run.begin, run.end):
            last = replace(last, count=last.count + 1)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def tiles(shape: Geometry, most: int) -> list[Tile]:
    """All tiles of an image, row after row."""
    row = spans(shape, most)
    result = []
    for y in range(shape.out_height):
        top = y * shape.stride[0] - shape.padding[0]
        inside = [
            tap for tap in range(shape.window[0])
            if 0 <= top + tap * shape.dilation[0] < shape.height
        ]
        first, rows = (inside[0], len(inside)) if inside else (0, 0)
        result += [Tile(span, y, first, rows) for span in row]
    return result


def grid_columns(panels: int, tiles: int, threads: int, prefers_panels: bool = False) -> int:
    """Among how many threads the panels are divided, the tiles among the others.

    So that nobody has much more to do than others; if that leaves a choice, among few or many.
    """
    def order(count: int) -> tuple[int, int]:
        longest = -(-panels // count) * -(-tiles // (threads // count))
        return longest, -count if prefers_panels else count

    return min((count for count in range(1, threads + 1) if threads % count == 0), key=order)
