"""The function that every thread runs: panels of output channels, all rows for each of them.

A panel is ``PANEL`` registers of output channels, of which the weights of one input channel lie
side by side: a cache line with AVX-512. They are widened to f32 in registers and multiply one
number of each row, broadcast. Few rows have sums for a whole panel in registers; more go through
it by halves, the second time from the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch2rt import expression as ex
from torch2rt.backends.cpu.jit import Function, Machine, address_of_kernel
from torch2rt.backends.cpu.jit.print_vector import print_vector, vector_declarations
from torch2rt.backends.cpu.winograd.element import Element
from torch2rt.backends.cpu.winograd.output import Operand

# Registers of output channels whose weights lie side by side.
PANEL = 4
# Where the numbers of a run are: addresses, then those of the output and of epilogue operands.
SOURCE, WEIGHTS, WORKSPACE, THREAD_NUMBER, THREAD_COUNT, TABLE = range(6)
# Sums of so many registers at least hide the latency of a multiply-add.
_ENOUGH_SUMS = 8


@dataclass(frozen=True, slots=True)
class Product:
    """y [m, n] = epilogue(x [m, k] w [k, n]); x and y of these elements, further inputs of these.

    ``k`` is a multiple of the lanes unless x is f32. Operands that are no tensors are f32, padded
    to whole panels.
    """

    m: int
    k: int
    n: int
    source: Element
    target: Element
    epilogue: ex.Expression
    operands: tuple[Operand, ...]

    def panels(self, machine: Machine) -> int:
        """How many there are, the last one padded."""
        return -(-self.n // (PANEL * machine.lanes))


def stored_kernel(product: Product, machine: Machine) -> int:
    """Address of the function of one thread; its argument is the address of its numbers."""
    further = ",".join(f"{item.kind} {item.element.value}" for item in product.operands)
    text = f"{product.epilogue.text}|{further}|{product.source.value}|{product.target.value}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"stored_{product.m}x{product.k}x{product.n}_{machine.lanes}_{digest}"
    return address_of_kernel(name, lambda: _Writer(name, product, machine).text())


class _Writer:
    def __init__(self, name: str, product: Product, machine: Machine) -> None:
        self.f = Function(name, [("ptr", "data")], machine.lanes)
        self.product = product
        self.machine = machine
        self.width = PANEL * machine.lanes
        count = TABLE + 1 + len(product.operands)
        self.pointers = [
            self.f.load("ptr", self.f.at("%data", index, "i64"), 8) for index in range(count)
        ]

    def text(self) -> str:
        """The panels of one thread."""
        f, product = self.f, self.product
        thread, count = (self._ask(index) for index in (THREAD_NUMBER, THREAD_COUNT))
        panels = product.panels(self.machine)
        begin = f.integer("sdiv", f.integer("mul", thread, panels), count)
        following = f.integer("add", thread, 1)
        end = f.integer("sdiv", f.integer("mul", following, panels), count)
        with f.when(f.compare("slt", begin, end)):
            source = self._widened_source(thread)
            with f.loop(begin, end) as panel:
                place = f.integer("mul", panel.counter, product.k * self.width)
                weights = f.at(self.pointers[WEIGHTS], place, "i8")
                column = f.integer("mul", panel.counter, self.width)
                for first, rows, start, registers in self._pieces():
                    sums = self._sums(source, weights, range(first, first + rows),
                                      range(start, start + registers))
                    for row in range(rows):
                        for register in range(registers):
                            shift = (start + register) * f.lanes
                            self._store(sums[row * registers + register], first + row,
                                        f.integer("add", column, shift))
        return f"{f.text}\n{self._declarations()}"

    def _pieces(self) -> Iterator[tuple[int, int, int, int]]:
        """(first row, rows, first register, registers) of pieces whose sums fit the registers."""
        most = self.machine.rows * self.machine.columns // PANEL - 1  # beside PANEL weights
        step, registers = (most, PANEL) if self.product.m <= most else (
            self.machine.rows, self.machine.columns
        )
        pieces = -(-self.product.m // step)
        for piece in range(pieces):
            first = piece * self.product.m // pieces
            rows = (piece + 1) * self.product.m // pieces - first
            for start in range(0, PANEL, registers):
                yield first, rows, start, registers

    def _sums(
        self, source: str, weights: str, rows: range, registers: range
    ) -> Sequence[str]:
        """Sums of some rows and some registers of a panel; several sums of each where few."""
        f, k = self.f, self.product.k
        size = len(rows) * len(registers)
        copies = next(
            count for count in (4, 2, 1) if k % count == 0 and (
                count == 1 or count // 2 * size < _ENOUGH_SUMS
            )
        )
        zeros = [(f.vector, "zeroinitializer")] * (size * copies)
        with f.loop(0, k // copies, zeros) as loop:
            sums = list(loop.carried)
            first = f.integer("mul", loop.counter, copies)
            line = f.at(weights, f.integer("mul", first, self.width), "i8")
            for copy in range(copies):
                factors = [self._weight(line, copy, register) for register in registers]
                for position, row in enumerate(rows):
                    place = f.integer("add", first, row * k + copy)
                    x = f.broadcast(f.load("float", f.at(source, place)))
                    for register, factor in enumerate(factors):
                        index = copy * size + position * len(factors) + register
                        sums[index] = f.intrinsic("fma", factor, x, sums[index])
            loop.updates = sums
        totals = loop.results[:size]
        for copy in range(1, copies):
            others = loop.results[copy * size : (copy + 1) * size]
            totals = [f.math("fadd", a, b) for a, b in zip(totals, others, strict=True)]
        return totals

    def _weight(self, line: str, copy: int, register: int) -> str:
        """A register of weights in f32."""
        f, lanes = self.f, self.f.lanes
        place = f.at(line, copy * self.width + register * lanes, "i8")
        stored = f.load(f"<{lanes} x i8>", place, 1)
        wide = f.value(f"sext <{lanes} x i8> {stored} to <{lanes} x i32>")
        return f.value(f"sitofp <{lanes} x i32> {wide} to {f.vector}")

    def _widened_source(self, thread: str) -> str:
        """Source in f32: as it is, or copied to the thread's part of the workspace."""
        f, product = self.f, self.product
        if product.source is Element.F32:
            return self.pointers[SOURCE]
        count = product.m * product.k
        target = f.at(self.pointers[WORKSPACE], f.integer("mul", thread, count))
        with f.loop(0, count // f.lanes) as loop:
            place = f.integer("mul", loop.counter, f.lanes)
            source = f.at(self.pointers[SOURCE], place, product.source.value)
            f.store(f.vector, product.source.load(f, source), f.at(target, place))
        return target

    def _store(self, value: str, row: int, column: str) -> None:
        """The epilogue of one register of sums, and what of it exists."""
        f, product = self.f, self.product
        is_partial = product.n % self.width != 0
        mask = self._mask(column) if is_partial else None
        place = f.integer("add", column, row * product.n)
        inputs = {0: value}
        for index, operand in enumerate(product.operands, 1):
            base = self.pointers[TABLE + index]
            match operand.kind:
                case "tensor":
                    inputs[index] = self._load(operand.element, base, place, mask)
                case "channel":
                    inputs[index] = f.load(f.vector, f.at(base, column))
                case _:
                    inputs[index] = f.broadcast(operand.element.load_one(f, base))
        result = print_vector(f, product.epilogue, inputs)
        target = f.at(self.pointers[TABLE], place, product.target.value)
        self._save(result, target, mask)

    def _mask(self, column: str) -> str:
        """Of each lane whether it is an output channel, from the number of the first."""
        f, lanes = self.f, self.f.lanes
        kind = f"<{lanes} x i32>"
        left = f.value(f"trunc i64 {f.integer('sub', self.product.n, column)} to i32")
        single = f.value(f"insertelement {kind} poison, i32 {left}, i64 0")
        spread = f.value(f"shufflevector {kind} {single}, {kind} poison, {kind} zeroinitializer")
        order = ", ".join(f"i32 {lane}" for lane in range(lanes))
        return f.value(f"icmp slt {kind} <{order}>, {spread}")

    def _load(self, element: Element, base: str, place: str, mask: str | None) -> str:
        f, lanes = self.f, self.f.lanes
        pointer = f.at(base, place, element.value)
        if mask is None:
            return element.load(f, pointer)
        kind, name = _stored(element, lanes)
        bits = f.value(
            f"call {kind} @llvm.masked.load.{name}.p0(ptr {pointer}, i32 {element.size_bytes}, "
            f"<{lanes} x i1> {mask}, {kind} zeroinitializer)"
        )
        return bits if element is Element.F32 else _widen(f, bits)

    def _save(self, value: str, pointer: str, mask: str | None) -> None:
        f, lanes, element = self.f, self.f.lanes, self.product.target
        kind, name = _stored(element, lanes)
        bits = value if element is Element.F32 else _rounded(f, value)
        if mask is None:
            f.store(kind, bits, pointer, element.size_bytes)
            return
        f.effect(
            f"call void @llvm.masked.store.{name}.p0({kind} {bits}, ptr {pointer}, "
            f"i32 {element.size_bytes}, <{lanes} x i1> {mask})"
        )

    def _ask(self, index: int) -> str:
        narrow = self.f.value(f"call i32 {self.pointers[index]}()")
        return self.f.value(f"sext i32 {narrow} to i64")

    def _declarations(self) -> str:
        lanes = self.f.lanes
        text, flags = vector_declarations(lanes), f"<{lanes} x i1>"
        for element in Element:
            kind, name = _stored(element, lanes)
            text += f"declare {kind} @llvm.masked.load.{name}.p0(ptr, i32, {flags}, {kind})\n"
            text += f"declare void @llvm.masked.store.{name}.p0({kind}, ptr, i32, {flags})\n"
        return text


def _stored(element: Element, lanes: int) -> tuple[str, str]:
    """A register of an element as it is stored, and its name in intrinsics."""
    if element is Element.F32:
        return f"<{lanes} x float>", f"v{lanes}f32"
    return f"<{lanes} x i16>", f"v{lanes}i16"


def _widen(f: Function, bits: str) -> str:
    """Bits of bf16 in f32."""
    wide = f"<{f.lanes} x i32>"
    extended = f.value(f"zext <{f.lanes} x i16> {bits} to {wide}")
    shifted = f.value(f"shl {wide} {extended}, splat (i32 16)")
    return f.value(f"bitcast {wide} {shifted} to {f.vector}")


def _rounded(f: Function, value: str) -> str:
    """f32 as bits of the nearest bf16, halves to even; written out, as few CPUs have it."""
    wide, narrow = f"<{f.lanes} x i32>", f"<{f.lanes} x i16>"
    bits = f.value(f"bitcast {f.vector} {value} to {wide}")
    odd = f.value(f"lshr {wide} {bits}, splat (i32 16)")
    odd = f.value(f"and {wide} {odd}, splat (i32 1)")
    added = f.value(f"add {wide} {odd}, splat (i32 32767)")
    rounded = f.value(f"lshr {wide} {f.value(f'add {wide} {bits}, {added}')}, splat (i32 16)")
    is_number = f.value(f"fcmp ord {f.vector} {value}, {value}")
    chosen = f.value(
        f"select <{f.lanes} x i1> {is_number}, {wide} {rounded}, {wide} splat (i32 32704)"
    )
    return f.value(f"trunc {wide} {chosen} to {narrow}")
