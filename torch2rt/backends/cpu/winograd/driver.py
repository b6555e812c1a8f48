"""The function that every thread runs: tiles transformed, multiplied, transformed back.

Where the activations are large, threads stay apart: each takes blocks of tiles, whose transformed
input and products stay in its second-level cache, and reads all weights. Where the weights are
large, threads share: each reads its share of the weights, and they meet between the stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, auto

from torch2rt.backends.cpu.jit import Function, Loop, Machine, address_of_kernel
from torch2rt.backends.cpu.winograd.element import Element


class Field(IntEnum):
    """Positions of the 64-bit numbers a run is described by.

    Strides count elements, those of input and weights f32 or bf16, those of products f32.
    """

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last: list[int]) -> int:
        return count

    source = auto()  # address of x
    weights = auto()  # address of the transformed weights
    table = auto()  # address of the addresses of the output and the epilogue's operands
    workspace = auto()  # address; each thread has its part
    workspace_elements = auto()  # this and the next two count f32 elements
    product_offset = auto()  # of the products in a thread's workspace
    border_offset = auto()  # of the copy of a tile that hangs over the image's border
    is_shared = auto()
    tile = auto()  # m, the output's pixels on an edge of a tile
    window = auto()  # m + 2, the input's
    blocks = auto()
    tiles = auto()
    tiles_per_row = auto()
    tiles_per_image = auto()
    height = auto()
    width = auto()
    out_height = auto()
    out_width = auto()
    pad_height = auto()
    pad_width = auto()
    image_stride = auto()
    row_stride = auto()
    column_stride = auto()
    channel_stride = auto()
    out_image_stride = auto()
    out_row_stride = auto()
    out_column_stride = auto()
    out_channel_stride = auto()
    channels = auto()
    registers = auto()  # of input channels
    out_registers = auto()
    input_matrix = auto()  # distance of the n * n matrices of transformed input
    product_matrix = auto()
    panels = auto()
    panel_elements = auto()  # of a whole panel of weights
    panel_products = auto()  # elements of a whole panel of products
    panel_width = auto()
    last_panel_width = auto()
    whole_panels = auto()
    product_table = auto()  # address of the kernels for whole panels, by rows
    last_product_table = auto()  # of those for the last panel
    rows = auto()  # of a product at most
    input_kernel = auto()
    output_kernel = auto()
    thread_number = auto()  # address of omp_get_thread_num
    thread_count = auto()  # address of omp_get_num_threads
    barrier = auto()  # address of GOMP_barrier
    border_elements = auto()
    matrix_elements = auto()  # of the transformed weights of one matrix


def driver_kernel(element: Element, machine: Machine) -> int:
    """Address of the function of one thread; its argument is the address of the `Field` numbers.

    ``element`` is the type of input and weights.
    """
    name = f"winograd_driver_{machine.lanes}_{element.value}"
    return address_of_kernel(name, lambda: _Driver(name, element, machine).text())


class _Driver:
    def __init__(self, name: str, element: Element, machine: Machine) -> None:
        self.f = Function(name, [("ptr", "data")], machine.lanes)
        self.vector = element.vector(machine.lanes)
        self._element = element.value
        self._loaded: dict[Field, str] = {}
        for field in Field:
            pointer = self.f.at("%data", field.value, "i64")
            self._loaded[field] = self.f.load("i64", pointer, 8)
        self.m, self.size = self._loaded[Field.tile], self._loaded[Field.window]

    def text(self) -> str:
        """Blocks one after the other.

        Threads that stay apart have blocks and a workspace each, and of a block everything. Where
        they share, there is one block, and a thread has its part of each stage.
        """
        f, get = self.f, self._loaded
        thread, threads = self._ask(Field.thread_number), self._ask(Field.thread_count)
        shared = f.compare("ne", get[Field.is_shared], 0)
        member = f.value(f"select i1 {shared}, i64 {thread}, i64 0")
        members = f.value(f"select i1 {shared}, i64 {threads}, i64 1")
        team = f.integer("sub", thread, member)
        begin, end = self._part(team, f.integer("sdiv", threads, members), get[Field.blocks])
        v = f.at(
            self._pointer(Field.workspace), f.integer("mul", team, get[Field.workspace_elements])
        )
        border = f.at(v, get[Field.border_offset])
        border = self._at(border, f.integer("mul", member, get[Field.border_elements]))
        items = f.integer("mul", get[Field.panels], f.integer("mul", self.size, self.size))
        with f.when(f.compare("slt", begin, end)), f.loop(begin, end) as block:
            first, last = self._part(block.counter, get[Field.blocks], get[Field.tiles])
            count = f.integer("sub", last, first)
            products = f.at(v, get[Field.product_offset])
            with self._share(member, members, count) as tile:
                self._transform(f.integer("add", first, tile.counter), tile.counter, v, border)
            self._meet(shared)
            with self._share(member, members, items) as item:
                self._multiply(item.counter, v, products, count)
            self._meet(shared)
            with self._share(member, members, count) as tile:
                self._store(f.integer("add", first, tile.counter), tile.counter, products)
        return f.text

    @contextmanager
    def _share(self, member: str, members: str, count: str) -> Iterator[Loop]:
        """A loop over one member's part, which may be empty."""
        begin, end = self._part(member, members, count)
        with self.f.when(self.f.compare("slt", begin, end)), self.f.loop(begin, end) as loop:
            yield loop

    def _meet(self, shared: str) -> None:
        """Threads that share wait for each other."""
        with self.f.when(shared):
            self.f.call(self._pointer(Field.barrier), [])

    def _ask(self, field: Field) -> str:
        narrow = self.f.value(f"call i32 {self._pointer(field)}()")
        return self.f.value(f"sext i32 {narrow} to i64")

    def _pointer(self, field: Field) -> str:
        return self.f.value(f"inttoptr i64 {self._loaded[field]} to ptr")

    def _at(self, pointer: str, offset: str) -> str:
        """The pointer moved by elements of input or weights."""
        return self.f.at(pointer, offset, self._element)

    def _part(self, index: str, parts: str, count: str) -> tuple[str, str]:
        """Where part ``index`` of so many nearly equal ones starts and ends."""
        f = self.f
        after = f.integer("add", index, 1)
        begin = f.integer("sdiv", f.integer("mul", index, count), parts)
        return begin, f.integer("sdiv", f.integer("mul", after, count), parts)

    def _position(self, tile: str) -> tuple[str, str, str]:
        """(image, row of tiles, column of tiles) of a tile."""
        f, get = self.f, self._loaded
        image = f.integer("sdiv", tile, get[Field.tiles_per_image])
        rest = f.integer("srem", tile, get[Field.tiles_per_image])
        row = f.integer("sdiv", rest, get[Field.tiles_per_row])
        return image, row, f.integer("srem", rest, get[Field.tiles_per_row])

    def _transform(self, tile: str, position: str, v: str, border: str) -> None:
        """Transform one tile, through a copy with zeros where it hangs over the border."""
        f, get = self.f, self._loaded
        image, row, column = self._position(tile)
        top = f.integer("sub", f.integer("mul", row, self.m), get[Field.pad_height])
        left = f.integer("sub", f.integer("mul", column, self.m), get[Field.pad_width])
        start = f.integer("mul", image, get[Field.image_stride])
        start = f.integer("add", start, f.integer("mul", top, get[Field.row_stride]))
        start = f.integer("add", start, f.integer("mul", left, get[Field.column_stride]))
        source = self._at(self._pointer(Field.source), start)
        target = self._at(v, f.integer("mul", position, get[Field.channels]))
        inside = f.value(f"and i1 {self._fits(top, Field.height)}, {self._fits(left, Field.width)}")
        strides = [get[s] for s in (Field.row_stride, Field.column_stride, Field.channel_stride)]
        with f.when(inside):
            self._call_input(source, strides, target)
        with f.when(f.value(f"xor i1 {inside}, true")):
            self._copy_border(source, top, left, border)
            row_stride = f.integer("mul", get[Field.channels], self.size)
            strides = [row_stride, get[Field.channels], str(f.lanes)]
            self._call_input(border, strides, target)

    def _fits(self, start: str, extent: Field) -> str:
        f = self.f
        reached = f.integer("add", start, self.size)
        within = f.compare("sle", reached, self._loaded[extent])
        return f.value(f"and i1 {f.compare('sge', start, 0)}, {within}")

    def _call_input(self, source: str, strides: list[str], target: str) -> None:
        get = self._loaded
        self.f.call(self._pointer(Field.input_kernel), [
            ("ptr", source), *(("i64", stride) for stride in strides), ("ptr", target),
            ("i64", get[Field.input_matrix]), ("i64", get[Field.registers]),
        ])

    def _copy_border(self, source: str, top: str, left: str, border: str) -> None:
        """Border [n, n, c] = the tile's pixels, zeros outside the image."""
        f, get = self.f, self._loaded
        with f.loop(0, self.size) as i, f.loop(0, self.size) as j:
            y, x = f.integer("add", top, i.counter), f.integer("add", left, j.counter)
            # Compared as unsigned numbers, negative ones are outside as well.
            rows = f.compare("ult", y, get[Field.height])
            valid = f.value(f"and i1 {rows}, {f.compare('ult', x, get[Field.width])}")
            pixel = f.integer("mul", i.counter, get[Field.row_stride])
            step = f.integer("mul", j.counter, get[Field.column_stride])
            pixel = self._at(source, f.integer("add", pixel, step))
            place = f.integer("add", f.integer("mul", i.counter, self.size), j.counter)
            target = self._at(border, f.integer("mul", place, get[Field.channels]))
            with f.when(valid), f.loop(0, get[Field.registers]) as c:
                shift = f.integer("mul", c.counter, get[Field.channel_stride])
                value = f.load(self.vector, self._at(pixel, shift), 2)
                place = self._at(target, f.integer("mul", c.counter, f.lanes))
                f.store(self.vector, value, place, 2)
            invalid = f.value(f"xor i1 {valid}, true")
            with f.when(invalid), f.loop(0, get[Field.registers]) as c:
                place = self._at(target, f.integer("mul", c.counter, f.lanes))
                f.store(self.vector, "zeroinitializer", place, 2)

    def _multiply(self, item: str, v: str, products: str, count: str) -> None:
        """One of the n * n products [tiles, c] x [c, k] of a block, for one panel of k."""
        f, get = self.f, self._loaded
        matrix = f.integer("sdiv", item, get[Field.panels])
        panel = f.integer("srem", item, get[Field.panels])
        left = self._at(v, f.integer("mul", matrix, get[Field.input_matrix]))
        right = self._at(
            self._pointer(Field.weights), f.integer("mul", matrix, get[Field.matrix_elements])
        )
        right = self._at(right, f.integer("mul", panel, get[Field.panel_elements]))
        out = f.at(products, f.integer("mul", matrix, get[Field.product_matrix]))
        out = f.at(out, f.integer("mul", panel, get[Field.panel_products]))
        tables = [get[Field.product_table], get[Field.last_product_table]]
        whole = f.compare("slt", panel, get[Field.whole_panels])
        chosen = f.value(f"select i1 {whole}, i64 {tables[0]}, i64 {tables[1]}")
        table = f.value(f"inttoptr i64 {chosen} to ptr")
        widths = [get[Field.panel_width], get[Field.last_panel_width]]
        width = f.value(f"select i1 {whole}, i64 {widths[0]}, i64 {widths[1]}")
        more = f.integer("add", count, f.integer("sub", get[Field.rows], 1))
        groups = f.integer("sdiv", more, get[Field.rows])
        following = self._at(right, get[Field.panel_elements])
        half = f.integer("sdiv", get[Field.panel_elements], 2)
        with f.loop(0, groups) as group:
            # Two groups fetch the next panel by halves; others find it there.
            ahead = self._at(following, f.integer("mul", f.integer("and", group.counter, 1), half))
            first, last = self._part(group.counter, groups, count)
            position = f.integer("sub", f.integer("sub", last, first), 1)
            kernel = f.load("ptr", f.at(table, position, "i64"), 8)
            f.call(kernel, [
                ("ptr", self._at(left, f.integer("mul", first, get[Field.channels]))),
                ("ptr", right),
                ("ptr", f.at(out, f.integer("mul", first, width))), ("ptr", ahead),
            ])

    def _store(self, tile: str, position: str, products: str) -> None:
        """Transform one tile's products back and write the pixels that exist."""
        f, get = self.f, self._loaded
        image, row, column = self._position(tile)
        top, left = f.integer("mul", row, self.m), f.integer("mul", column, self.m)
        start = f.integer("mul", image, get[Field.out_image_stride])
        start = f.integer("add", start, f.integer("mul", top, get[Field.out_row_stride]))
        start = f.integer("add", start, f.integer("mul", left, get[Field.out_column_stride]))
        numbers = [
            position, get[Field.panel_products], get[Field.whole_panels],
            get[Field.last_panel_width], start, get[Field.out_row_stride],
            get[Field.out_column_stride], get[Field.out_channel_stride], get[Field.out_registers],
            f.integer("sub", get[Field.out_height], top),
            f.integer("sub", get[Field.out_width], left),
        ]
        f.call(self._pointer(Field.output_kernel), [
            ("ptr", products), ("i64", get[Field.product_matrix]),
            ("ptr", self._pointer(Field.table)),
            *(("i64", number) for number in numbers),
        ])
