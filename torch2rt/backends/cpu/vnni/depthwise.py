"""The compiled functions of a depthwise convolution of bytes: one of a tile, and one of a thread.

Idea: of four rows the bytes of a channel are brought together, for 64 channels by eight
instructions, and one instruction multiplies them by a column of the window for 16 channels. A
column of the image serves all output pixels whose windows hold it. The channels come out in the
order in which four registers of results are packed into bytes. Rows outside the image are read
from zeros; columns outside are left out, so the borders have tiles of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, auto

from torch2rt.backends.cpu.jit import Function, address_of_kernel
from torch2rt.backends.cpu.jit.print_vector import vector_declarations
from torch2rt.backends.cpu.vnni.driving import DriverWriter
from torch2rt.backends.cpu.vnni.epilogue import PANEL, Epilogue
from torch2rt.backends.cpu.vnni.store import STORE_DECLARATIONS, EpilogueWriter, TileFunction

LANES = 16
VECTORS = PANEL // LANES
# Rows of the window that one instruction multiplies.
GROUP = 4
# The offset of a row outside the image; one that starts before it has a small negative one.
OUTSIDE = -(1 << 62)
_SUM = "<16 x i32>"
_BYTES = "<64 x i8>"
_SHORTS = "<32 x i16>"


class DepthwiseField(IntEnum):
    """Positions of the 64-bit numbers a run is described by."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last: list[int]) -> int:
        return count

    source = auto()  # address of x
    weights = auto()  # address of the packed weights
    table = auto()  # address of the addresses that the epilogue reads
    zeros = auto()  # address of zeros for a tile's part of a row
    tiles = auto()  # address of the tiles: kernel, first pixel of the output, row offsets
    tile_numbers = auto()  # of one tile
    tile_count = auto()
    images = auto()
    image_bytes = auto()
    out_pixels = auto()  # of an image
    channels = auto()
    panels = auto()
    panel_bytes = auto()  # of the weights
    columns = auto()  # threads among which the panels are divided
    thread_number = auto()
    thread_count = auto()


@dataclass(frozen=True, slots=True)
class DepthwiseTile:
    """``pixels`` of a row of the output by 64 channels; the window has ``rows`` x ``taps``.

    ``first`` is the column of the input, counted from the tile's first window, before which there
    is padding, ``end`` the one behind the last that is inside.
    """

    pixels: int
    channels: int
    rows: int
    taps: int
    stride: int
    dilation: int
    first: int
    end: int
    epilogue: Epilogue


def tile_kernel(tile: DepthwiseTile) -> int:
    """Address of the function of a tile.

    Its arguments are the addresses of the panel in the image and in the weights, of zeros, of the
    offsets of the rows, `OUTSIDE` where there is none, and of the table; the place of the first
    output, and the number of the panel's first constant.
    """
    name = f"vnni_depthwise_{hashlib.sha256(repr(tile).encode()).hexdigest()[:24]}"
    return address_of_kernel(name, lambda: write_tile(name, tile))


def write_tile(name: str, tile: DepthwiseTile) -> str:
    """The module with the function of a tile."""
    f = TileFunction(name, [
        ("ptr", "x"), ("ptr", "w"), ("ptr", "zeros"), ("ptr", "rows"), ("ptr", "table"),
        ("i64", "place"), ("i64", "channel"),
    ], LANES)
    rows = [_row(f, number) for number in range(tile.rows)]
    sums = ["zeroinitializer"] * (tile.pixels * VECTORS)
    for column in range(tile.first, tile.end):
        uses = [
            (pixel, tap) for pixel in range(tile.pixels) for tap in range(tile.taps)
            if pixel * tile.stride + tap * tile.dilation == column
        ]
        if uses:
            _add_column(f, tile, [f.at(row, column * tile.channels, "i8") for row in rows],
                        uses, sums)
    EpilogueWriter(f, tile.epilogue, VECTORS, tile.channels).write(sums)
    return f"{f.text}\n{vector_declarations(LANES)}{STORE_DECLARATIONS}"


def _row(f: Function, number: int) -> str:
    """Where a row of the input starts, or zeros."""
    offset = f.load("i64", f.at("%rows", number, "i64"), 8)
    outside = f.compare("slt", offset, OUTSIDE // 2)
    return f.value(f"select i1 {outside}, ptr %zeros, ptr {f.at('%x', offset, 'i8')}")


def _add_column(
    f: Function, tile: DepthwiseTile, places: Sequence[str], uses: Sequence[tuple[int, int]],
    sums: list[str],
) -> None:
    """Add the products of a column of the input to the sums of the pixels that use it."""
    groups = -(-tile.rows // GROUP)
    for group in range(groups):
        loaded = [f.load(_BYTES, place, 1) for place in places[group * GROUP :][:GROUP]]
        loaded += ["zeroinitializer"] * (GROUP - len(loaded))
        for vector, taps in enumerate(_brought_together(f, loaded)):
            for pixel, tap in uses:
                index = pixel * VECTORS + vector
                weight = f.at("%w", ((tap * groups + group) * VECTORS + vector) * 64, "i8")
                sums[index] = f.value(
                    f'call {_SUM} asm "vpdpbusd $2, $1, $0", "=v,v,*m,0"({_SUM} {taps}, '
                    f"ptr elementtype({_SUM}) {weight}, {_SUM} {sums[index]})"
                )


def _brought_together(f: Function, rows: Sequence[str]) -> list[str]:
    """Four registers of the four rows' bytes of 16 channels each, channel by channel."""
    pairs = [
        f.value(f"bitcast {_BYTES} {_unpacked(f, _BYTES, rows[i], rows[i + 1], is_high)} "
                f"to {_SHORTS}")
        for is_high in (False, True) for i in (0, 2)
    ]
    return [
        f.value(f"bitcast {_SHORTS} {_unpacked(f, _SHORTS, *half, is_high)} to {_SUM}")
        for half in ((pairs[0], pairs[1]), (pairs[2], pairs[3])) for is_high in (False, True)
    ]


def _unpacked(f: Function, kind: str, left: str, right: str, is_high: bool) -> str:
    """The low or high halves of each quarter, element by element in turns."""
    count = 64 if kind == _BYTES else 32
    quarter = count // 4
    order = [
        start + is_high * quarter // 2 + item + side * count
        for start in range(0, count, quarter) for item in range(quarter // 2) for side in (0, 1)
    ]
    mask = ", ".join(f"i32 {place}" for place in order)
    return f.value(f"shufflevector {kind} {left}, {kind} {right}, <{count} x i32> <{mask}>")


def driver_kernel() -> int:
    """Address of the function of a thread; its argument is that of the `DepthwiseField` numbers."""
    name = "vnni_depthwise_driver"
    return address_of_kernel(name, lambda: _Driver(name, DepthwiseField).text())


class _Driver(DriverWriter):
    def text(self) -> str:
        """Panels one after the other, so that rows are found in the cache."""
        f, get = self.f, self.get
        thread, threads = (
            self.ask(DepthwiseField.thread_number), self.ask(DepthwiseField.thread_count)
        )
        is_grid = f.compare("eq", f.integer("srem", threads, get[DepthwiseField.columns]), 0)
        columns = f.value(f"select i1 {is_grid}, i64 {get[DepthwiseField.columns]}, i64 1")
        first, last = self.part(
            f.integer("srem", thread, columns), columns, get[DepthwiseField.panels]
        )
        begin, end = self.part(
            f.integer("sdiv", thread, columns), f.integer("sdiv", threads, columns),
            f.integer("mul", get[DepthwiseField.images], get[DepthwiseField.tile_count]),
        )
        has_panels, has_tiles = f.compare("slt", first, last), f.compare("slt", begin, end)
        with f.when(f.value(f"and i1 {has_panels}, {has_tiles}")), \
                f.loop(first, last) as panel, f.loop(begin, end) as item:
            self._tile(panel.counter, item.counter)
        return f"{f.text}\ndeclare i64 @llvm.smin.i64(i64, i64)\n"

    def _tile(self, panel: str, item: str) -> None:
        """One tile of one image for one panel; the last panel ends with the last channel."""
        f, get = self.f, self.get
        image = f.integer("sdiv", item, get[DepthwiseField.tile_count])
        number = f.integer("srem", item, get[DepthwiseField.tile_count])
        tile = f.at(
            self.pointer(DepthwiseField.tiles),
            f.integer("mul", number, get[DepthwiseField.tile_numbers]), "i64",
        )
        kernel = f.load("ptr", tile, 8)
        pixel = f.load("i64", f.at(tile, 1, "i64"), 8)
        constant = f.integer("mul", panel, PANEL)
        most = f.integer("sub", get[DepthwiseField.channels], PANEL)
        channel = f.value(f"call i64 @llvm.smin.i64(i64 {constant}, i64 {most})")
        source = f.integer("mul", image, get[DepthwiseField.image_bytes])
        place = f.integer("mul", image, get[DepthwiseField.out_pixels])
        place = f.integer("add", place, pixel)
        place = f.integer("mul", place, get[DepthwiseField.channels])
        weights = f.integer("mul", panel, get[DepthwiseField.panel_bytes])
        x = f.at(self.pointer(DepthwiseField.source), f.integer("add", source, channel), "i8")
        f.call(kernel, [
            ("ptr", x), ("ptr", f.at(self.pointer(DepthwiseField.weights), weights, "i8")),
            ("ptr", self.pointer(DepthwiseField.zeros)), ("ptr", f.at(tile, 2, "i64")),
            ("ptr", self.pointer(DepthwiseField.table)),
            ("i64", f.integer("add", place, channel)), ("i64", constant),
        ])
