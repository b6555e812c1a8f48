"""The compiled function of one tile: products of bytes, then the epilogue, all in registers.

Idea: a register holds 16 output channels, and one instruction adds to each the products of four
input channels of a pixel, broadcast, with its four weights. A tile of p pixels by v registers
needs p loads of four bytes and v registers of weights for p v such instructions, so that the
multipliers are never short of operands: p v = 28 sums, and the operands of a step beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt.backends.cpu.jit import address_of_kernel
from torch2rt.backends.cpu.jit.print_vector import vector_declarations
from torch2rt.backends.cpu.vnni.epilogue import Epilogue
from torch2rt.backends.cpu.vnni.store import STORE_DECLARATIONS, EpilogueWriter, TileFunction
from torch2rt.backends.cpu.vnni.tile import Run

LANES = 16
# Of 32 registers, those for sums and for a pixel; the others hold weights, the last of which are
# read from memory by the instruction that multiplies them.
REGISTERS = 32
_VECTOR = "<16 x i32>"
_PRODUCT = "@llvm.x86.avx512.vpdpbusd.512"
_DECLARED = (
    f"declare {_VECTOR} {_PRODUCT}({_VECTOR}, {_VECTOR}, {_VECTOR})\n"
    "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n"
)
# Steps of four channels in a round of the innermost loop at most.
_UNROLLED = 4


@dataclass(frozen=True, slots=True)
class TileKernel:
    """A tile of ``pixels`` by ``vectors`` registers of output channels.

    ``channels`` is the number of input channels, ``out_channels`` that of all output channels.
    ``pixel_bytes``, ``tap_bytes`` and ``row_bytes`` are the distances in the input of what is read
    for neighbouring output pixels, taps of a row, and rows of taps; a row has ``taps``. Meanwhile
    ``ahead`` lines are fetched in each round of the loop. Sums start at zero, or at one number for
    each output channel, whose address is the last of the table.
    """

    pixels: int
    vectors: int
    channels: int
    out_channels: int
    pixel_bytes: int
    tap_bytes: int
    row_bytes: int
    taps: int
    runs: tuple[Run, ...]
    ahead: int
    has_start: bool
    epilogue: Epilogue

    @property
    def row_weights(self) -> int:
        """Bytes of the weights of a row of taps."""
        return self.taps * self.tap_weights

    @property
    def tap_weights(self) -> int:
        """Bytes of the weights of a tap."""
        return self.channels * LANES * self.vectors

    def rounds(self, run: Run) -> tuple[int, int]:
        """(rounds, steps in a round) of the loop over a run of taps."""
        steps = run.count * self.channels // 4
        unrolled = next(count for count in range(_UNROLLED, 0, -1) if steps % count == 0)
        return steps // unrolled, unrolled

    @property
    def ahead_bytes(self) -> int:
        """Bytes that are fetched during a row of taps."""
        return sum(self.rounds(run)[0] for run in self.runs) * self.ahead * 64


def tile_kernel(kernel: TileKernel) -> int:
    """Address of the function of a tile.

    Its arguments are the addresses of the input at the first row of taps, of the weights there, of
    the table of addresses that `EpilogueWriter` reads; the place of the tile's first output in the
    output, its first channel, the number of rows of taps, and the address to fetch ahead.
    """
    name = f"vnni_tile_{hashlib.sha256(repr(kernel).encode()).hexdigest()[:24]}"
    return address_of_kernel(name, lambda: write_tile(name, kernel))


def write_tile(name: str, kernel: TileKernel) -> str:
    """The module with the function of a tile."""
    f = TileFunction(name, [
        ("ptr", "x"), ("ptr", "w"), ("ptr", "table"), ("i64", "place"), ("i64", "channel"),
        ("i64", "rows"), ("ptr", "ahead"),
    ], LANES)
    sums = _Products(f, kernel).sums()
    EpilogueWriter(f, kernel.epilogue, kernel.vectors, kernel.out_channels).write(sums)
    return f"{f.text}\n{_DECLARED}{vector_declarations(LANES)}{STORE_DECLARATIONS}"


class _Products:
    def __init__(self, f: TileFunction, kernel: TileKernel) -> None:
        self.f = f
        self.kernel = kernel

    def sums(self) -> Sequence[str]:
        """The sums over all taps, pixel by pixel."""
        f, kernel = self.f, self.kernel
        with f.loop(0, "%rows", self._start() * kernel.pixels) as row:
            x = f.at("%x", f.integer("mul", row.counter, kernel.row_bytes), "i8")
            w = f.at("%w", f.integer("mul", row.counter, kernel.row_weights), "i8")
            ahead = f.at("%ahead", f.integer("mul", row.counter, kernel.ahead_bytes), "i8")
            sums = row.carried
            for run in kernel.runs:
                sums = self._run(run, sums, x, w, ahead)
                ahead = f.at(ahead, kernel.rounds(run)[0] * kernel.ahead * 64, "i8")
            row.updates += sums
        return row.results

    def _start(self) -> list[tuple[str, str]]:
        """What the sums of a pixel start at, with its type."""
        f, kernel = self.f, self.kernel
        if not kernel.has_start:
            return [(_VECTOR, "zeroinitializer")] * kernel.vectors
        pointer = f.load("ptr", f.at("%table", kernel.epilogue.table_size, "i64"), 8)
        first = f.at(pointer, "%channel", "i32")
        return [
            (_VECTOR, f.load(_VECTOR, f.at(first, vector * LANES, "i32")))
            for vector in range(kernel.vectors)
        ]

    def _run(self, run: Run, sums: list[str], x: str, w: str, ahead: str) -> list[str]:
        """The sums with the products of a run of taps, their pixels and channels on end."""
        f, kernel = self.f, self.kernel
        rounds, unrolled = kernel.rounds(run)
        x = f.at(x, run.first * kernel.tap_bytes, "i8")
        w = f.at(w, run.first * kernel.tap_weights, "i8")
        with f.loop(0, rounds, [(_VECTOR, total) for total in sums]) as loop:
            line = f.at(ahead, f.integer("mul", loop.counter, kernel.ahead * 64), "i8")
            for index in range(kernel.ahead):
                f.call("@llvm.prefetch.p0", [
                    ("ptr", f.at(line, index * 64, "i8")), ("i32", "0"), ("i32", "2"), ("i32", "1"),
                ])
            x = f.at(x, f.integer("mul", loop.counter, 4 * unrolled), "i8")
            w = f.at(w, f.integer("mul", loop.counter, unrolled * kernel.vectors * 64), "i8")
            now = list(loop.carried)
            for step in range(unrolled):
                place = f.at(w, step * kernel.vectors * 64, "i8")
                self._step(run, now, f.at(x, 4 * step, "i8"), place)
            loop.updates += now
        return loop.results

    def _step(self, run: Run, sums: list[str], x: str, w: str) -> None:
        """Add the products of four channels to the sums."""
        f, kernel = self.f, self.kernel
        fitting = REGISTERS - kernel.pixels * kernel.vectors - 1
        places = [f.at(w, vector * 64, "i8") for vector in range(kernel.vectors)]
        held = [f.load(_VECTOR, place, 64) for place in places[:fitting]]
        for pixel in range(run.begin, run.end):
            four = f.load("i32", f.at(x, pixel * kernel.pixel_bytes, "i8"), 1)
            single = f.value(f"insertelement {_VECTOR} poison, i32 {four}, i64 0")
            spread = f.value(
                f"shufflevector {_VECTOR} {single}, {_VECTOR} poison, {_VECTOR} zeroinitializer"
            )
            for vector, place in enumerate(places):
                index = pixel * kernel.vectors + vector
                if vector < len(held):
                    sums[index] = f.value(
                        f"call {_VECTOR} {_PRODUCT}({_VECTOR} {sums[index]}, {_VECTOR} {spread}, "
                        f"{_VECTOR} {held[vector]})"
                    )
                    continue
                # LLVM would load what is used often, and spill a sum for it.
                sums[index] = f.value(
                    f'call {_VECTOR} asm "vpdpbusd $2, $1, $0", "=v,v,*m,0"({_VECTOR} {spread}, '
                    f"ptr elementtype({_VECTOR}) {place}, {_VECTOR} {sums[index]})"
                )
