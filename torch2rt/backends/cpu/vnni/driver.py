"""The function that every thread runs: its panels of output channels, for each its tiles.

Threads form a grid: those of a column share panels, those of a row share tiles. Where weights are
large, each thread reads its own; where images are large, each writes its own rows.
"""

from __future__ import annotations

from enum import IntEnum, auto

from torch2rt.backends.cpu.jit import Function, address_of_kernel
from torch2rt.backends.cpu.vnni.kernel import LANES


class Field(IntEnum):
    """Positions of the 64-bit numbers a run is described by."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last: list[int]) -> int:
        return count

    source = auto()  # address of x
    weights = auto()  # address of the packed weights
    table = auto()  # address of the addresses that tiles read
    tiles = auto()  # address of the tiles of an image, `Entry` numbers each
    tile_count = auto()
    images = auto()
    image_bytes = auto()  # of the input
    image_elements = auto()  # of the output
    out_channels = auto()
    panels = auto()
    whole_panels = auto()
    panel_bytes = auto()  # of a whole panel of weights
    vectors = auto()  # registers of a whole panel
    last_vectors = auto()
    columns = auto()  # of the grid of threads
    ahead_bytes = auto()  # fetched by a whole tile
    thread_number = auto()  # address of omp_get_thread_num
    thread_count = auto()  # address of omp_get_num_threads


class Entry(IntEnum):
    """Positions of the 64-bit numbers that describe a tile."""

    kernel = 0  # address of the function for whole panels
    last_kernel = 1
    source_bytes = 2  # of its input in an image
    vector_bytes = 3  # of its first row of taps, in the weights of a register
    pixel = 4  # its first, in the output
    rows = 5  # of taps


def driver_kernel() -> int:
    """Address of the function of one thread; its argument is the address of the `Field` numbers."""
    name = "vnni_driver"
    return address_of_kernel(name, lambda: _Driver(name).text())


class _Driver:
    def __init__(self, name: str) -> None:
        self.f = Function(name, [("ptr", "data")], LANES)
        self.get = {
            field: self.f.load("i64", self.f.at("%data", field.value, "i64"), 8) for field in Field
        }

    def text(self) -> str:
        """Panels one after the other, so that tiles find the weights in the cache."""
        f, get = self.f, self.get
        thread, threads = self._ask(Field.thread_number), self._ask(Field.thread_count)
        is_grid = f.compare("eq", f.integer("srem", threads, get[Field.columns]), 0)
        columns = f.value(f"select i1 {is_grid}, i64 {get[Field.columns]}, i64 1")
        panel_begin, panel_end = self._part(
            f.integer("srem", thread, columns), columns, get[Field.panels]
        )
        begin, end = self._part(
            f.integer("sdiv", thread, columns), f.integer("sdiv", threads, columns),
            f.integer("mul", get[Field.images], get[Field.tile_count]),
        )
        has_panels = f.compare("slt", panel_begin, panel_end)
        has_tiles = f.compare("slt", begin, end)
        with f.when(f.value(f"and i1 {has_panels}, {has_tiles}")), \
                f.loop(panel_begin, panel_end) as panel:
            start = f.integer("mul", panel.counter, get[Field.panel_bytes])
            weights = f.at(self._pointer(Field.weights), start, "i8")
            following = f.compare("slt", f.integer("add", panel.counter, 1), panel_end)
            step = f.value(f"select i1 {following}, i64 {get[Field.panel_bytes]}, i64 0")
            next_weights = f.at(weights, step, "i8")
            with f.loop(begin, end) as item:
                done = f.integer("sub", item.counter, begin)
                ahead = self._ahead(next_weights, done)
                self._tile(item.counter, panel.counter, weights, ahead)
        return f.text

    def _ask(self, field: Field) -> str:
        narrow = self.f.value(f"call i32 {self._pointer(field)}()")
        return self.f.value(f"sext i32 {narrow} to i64")

    def _pointer(self, field: Field) -> str:
        return self.f.value(f"inttoptr i64 {self.get[field]} to ptr")

    def _part(self, index: str, parts: str, count: str) -> tuple[str, str]:
        """Where part ``index`` of so many nearly equal ones starts and ends."""
        f = self.f
        after = f.integer("add", index, 1)
        begin = f.integer("sdiv", f.integer("mul", index, count), parts)
        return begin, f.integer("sdiv", f.integer("mul", after, count), parts)

    def _ahead(self, weights: str, done: str) -> str:
        """What the next tile fetches of a panel, ``done`` tiles having fetched the lines before."""
        f, get = self.f, self.get
        place = f.integer("mul", done, get[Field.ahead_bytes])
        is_left = f.compare("slt", place, get[Field.panel_bytes])
        return f.at(weights, f.value(f"select i1 {is_left}, i64 {place}, i64 0"), "i8")

    def _tile(self, item: str, panel: str, weights: str, ahead: str) -> None:
        """One tile of one image for one panel."""
        f, get = self.f, self.get
        image = f.integer("sdiv", item, get[Field.tile_count])
        number = f.integer("srem", item, get[Field.tile_count])
        entry = f.at(self._pointer(Field.tiles), f.integer("mul", number, len(Entry)), "i64")
        tile = {
            part: f.load("i64", f.at(entry, part.value, "i64"), 8) for part in Entry
        }
        is_whole = f.compare("slt", panel, get[Field.whole_panels])
        kernel, vectors = (
            f.value(f"select i1 {is_whole}, i64 {whole}, i64 {last}") for whole, last in (
                (tile[Entry.kernel], tile[Entry.last_kernel]),
                (get[Field.vectors], get[Field.last_vectors]),
            )
        )
        source = f.integer("mul", image, get[Field.image_bytes])
        source = f.integer("add", source, tile[Entry.source_bytes])
        channel = f.integer("mul", f.integer("mul", panel, get[Field.vectors]), LANES)
        place = f.integer("mul", image, get[Field.image_elements])
        pixel = f.integer("mul", tile[Entry.pixel], get[Field.out_channels])
        place = f.integer("add", f.integer("add", place, pixel), channel)
        shift = f.integer("mul", tile[Entry.vector_bytes], vectors)
        f.call(f.value(f"inttoptr i64 {kernel} to ptr"), [
            ("ptr", f.at(self._pointer(Field.source), source, "i8")),
            ("ptr", f.at(weights, shift, "i8")),
            ("ptr", self._pointer(Field.table)), ("i64", place), ("i64", channel),
            ("i64", tile[Entry.rows]), ("ptr", ahead),
        ])
