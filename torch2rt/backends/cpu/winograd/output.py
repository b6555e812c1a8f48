"""The output transform of one tile with a layer's epilogue in registers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt import expression as ex
from torch2rt.backends.cpu.jit import Function, Machine, address_of_kernel
from torch2rt.backends.cpu.jit.print_vector import print_vector
from torch2rt.backends.cpu.winograd import transform
from torch2rt.backends.cpu.winograd.element import Element
from torch2rt.backends.cpu.winograd.kernels import declarations


@dataclass(frozen=True, slots=True)
class Operand:
    """A further input of an epilogue: its values' type, and how they belong to the output's.

    ``kind`` is "tensor" for one like the output, "channel" for one value each, or "scalar".
    """

    kind: str
    element: Element


def output_kernel(
    m: int, epilogue: ex.Expression | None, operands: Sequence[Operand], element: Element,
    machine: Machine,
) -> int:
    """Address of AT m A and the epilogue for one tile, see `write_output`."""
    text = epilogue.text if epilogue is not None else "i0"
    further = ",".join(f"{operand.kind} {operand.element.value}" for operand in operands)
    digest = hashlib.sha256(f"{text}|{further}".encode()).hexdigest()[:16]
    name = f"winograd_output_{m}_{machine.lanes}_{element.value}_{digest}"

    def make() -> str:
        written = write_output(name, m, epilogue, operands, element, machine)
        return declarations(machine) + written

    return address_of_kernel(name, make)


def write_output(
    name: str, m: int, epilogue: ex.Expression | None, operands: Sequence[Operand],
    element: Element, machine: Machine,
) -> str:
    """AT p A of one tile for all channels, then the epilogue, then the pixels that exist.

    ``p`` is the first product, ``matrix`` the distance of products. In each, panels of ``panel``
    elements follow one another, rows of channels of one tile after the other in them; after
    ``whole`` panels there may be one with rows of ``last`` elements. ``table`` holds the addresses
    of the output and of the operands; ``start`` is the tile's first pixel in the output and in
    tensors like it, with the strides ``row``, ``column`` and ``channel``.
    """
    f = Function(name, [
        ("ptr", "p"), ("i64", "matrix"), ("ptr", "table"),
        *(("i64", given) for given in (
            "tile", "panel", "whole", "last", "start", "row", "column", "channel", "channels",
            "rows", "columns",
        )),
    ], machine.lanes)
    bases = [f.load("ptr", f.at("%table", i, "i64"), 8) for i in range(len(operands) + 1)]
    root = epilogue if epilogue is not None else ex.Input(0)
    with f.loop(0, "%channels") as loop:
        first = f.integer("mul", loop.counter, machine.lanes)
        p = _row(f, loop.counter, machine)
        shift = f.integer("add", "%start", f.integer("mul", loop.counter, "%channel"))
        fixed = {
            index: _fixed_operand(f, operand, bases[index], first)
            for index, operand in enumerate(operands, 1) if operand.kind != "tensor"
        }
        columns = _columns(f, m, p)
        for i in range(m):
            with f.when(f.compare("slt", i, "%rows")):
                values = transform.apply_output(f, m, [column[i] for column in columns])
                line = f.integer("add", shift, f.integer("mul", "%row", i))
                for j, value in enumerate(values):
                    with f.when(f.compare("slt", j, "%columns")):
                        pixel = f.integer("add", line, f.integer("mul", "%column", j))
                        tensors = {
                            index: _loaded(f, operand, bases[index], pixel)
                            for index, operand in enumerate(operands, 1)
                            if operand.kind == "tensor"
                        }
                        result = print_vector(f, root, {0: value, **fixed, **tensors})
                        element.store(f, result, f.at(bases[0], pixel, element.value))
    return f.text


def _columns(f: Function, m: int, p: str) -> list[list[str]]:
    """AT p: for each of the n columns of products its m values."""
    size = m + 2
    columns = []
    for j in range(size):
        column = [
            f.load(f.vector, f.at(p, f.integer("mul", "%matrix", i * size + j)))
            for i in range(size)
        ]
        columns.append(transform.apply_output(f, m, column))
    return columns


def _row(f: Function, register: str, machine: Machine) -> str:
    """Where a tile's products for one register of channels are in the first matrix."""
    panel = f.integer("udiv", register, machine.columns)
    column = f.integer("urem", register, machine.columns)
    is_whole = f.compare("slt", panel, "%whole")
    width = f.value(f"select i1 {is_whole}, i64 {machine.columns * machine.lanes}, i64 %last")
    place = f.integer("add", f.integer("mul", panel, "%panel"), f.integer("mul", "%tile", width))
    return f.at("%p", f.integer("add", place, f.integer("mul", column, machine.lanes)))


def _fixed_operand(f: Function, operand: Operand, base: str, first: str) -> str:
    """An operand that is the same for all pixels: a vector of channels or one number."""
    if operand.kind == "channel":
        return _loaded(f, operand, base, first)
    return f.broadcast(operand.element.load_one(f, base))


def _loaded(f: Function, operand: Operand, base: str, place: str) -> str:
    return operand.element.load(f, f.at(base, place, operand.element.value))
