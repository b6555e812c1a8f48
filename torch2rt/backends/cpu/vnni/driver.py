"""The function that every thread runs: its panels of output channels, for each its tiles.

Threads form a grid: those of a column share panels, those of a row share tiles. Where weights are
large, each thread reads its own; where images are large, each writes its own rows.
"""

from __future__ import annotations

from torch2rt.backends.cpu.jit import address_of_kernel
from torch2rt.backends.cpu.vnni.driving import DriverWriter
from torch2rt.backends.cpu.vnni.field import Entry, Field
from torch2rt.backends.cpu.vnni.kernel import LANES


def driver_kernel() -> int:
    """Address of the function of one thread; its argument is the address of the `Field` numbers."""
    name = "vnni_driver"
    return address_of_kernel(name, lambda: _Driver(name, Field).text())


class _Driver(DriverWriter):
    def text(self) -> str:
        """Panels one after the other, so that tiles find the weights in the cache."""
        f, get = self.f, self.get
        thread, threads = self.ask(Field.thread_number), self.ask(Field.thread_count)
        with f.when(f.compare("ne", get[Field.has_copy], 0)):
            self._copy(thread, threads)
        is_grid = f.compare("eq", f.integer("srem", threads, get[Field.columns]), 0)
        columns = f.value(f"select i1 {is_grid}, i64 {get[Field.columns]}, i64 1")
        panel_begin, panel_end = self.part(
            f.integer("srem", thread, columns), columns, get[Field.panels]
        )
        begin, end = self.part(
            f.integer("sdiv", thread, columns), f.integer("sdiv", threads, columns),
            f.integer("mul", get[Field.images], get[Field.tile_count]),
        )
        has_panels = f.compare("slt", panel_begin, panel_end)
        has_tiles = f.compare("slt", begin, end)
        with f.when(f.value(f"and i1 {has_panels}, {has_tiles}")), \
                f.loop(panel_begin, panel_end) as panel:
            start = f.integer("mul", panel.counter, get[Field.panel_bytes])
            weights = f.at(self.pointer(Field.weights), start, "i8")
            following = f.compare("slt", f.integer("add", panel.counter, 1), panel_end)
            step = f.value(f"select i1 {following}, i64 {get[Field.panel_bytes]}, i64 0")
            next_weights = f.at(weights, step, "i8")
            with f.loop(begin, end) as item:
                done = f.integer("sub", item.counter, begin)
                ahead = self._ahead(next_weights, done)
                self._tile(item.counter, panel.counter, weights, ahead)
        return f.text

    def _copy(self, thread: str, threads: str) -> None:
        """This thread's rows of the copy; then threads wait for each other."""
        f = self.f
        begin, end = self.part(thread, threads, self.get[Field.copy_rows])
        with f.when(f.compare("slt", begin, end)):
            f.call(self.pointer(Field.copy_kernel), [
                ("ptr", "%data"), ("i64", begin), ("i64", end),
            ])
        f.call(self.pointer(Field.barrier), [])

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
        entry = f.at(self.pointer(Field.tiles), f.integer("mul", number, len(Entry)), "i64")
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
            ("ptr", f.at(self.pointer(Field.source), source, "i8")),
            ("ptr", f.at(weights, shift, "i8")),
            ("ptr", self.pointer(Field.table)), ("i64", place), ("i64", channel),
            ("i64", tile[Entry.rows]), ("ptr", ahead),
        ])
