"""The compiled pieces of a Winograd convolution that know neither shapes nor epilogue.

Sizes and strides are arguments, in elements, so that one process compiles each piece once.
"""

from __future__ import annotations

from collections.abc import Callable

from torch2rt.backends.cpu.jit import Function, Machine, address_of_kernel
from torch2rt.backends.cpu.jit.print_vector import vector_declarations
from torch2rt.backends.cpu.winograd import transform
from torch2rt.backends.cpu.winograd.element import Element

_PAIRS = "<32 x bfloat>"
_DOT = "@llvm.x86.avx512bf16.dpbf16ps.512"
_DOT_DECLARED = f"declare <16 x float> {_DOT}(<16 x float>, {_PAIRS}, {_PAIRS})\n"


def declarations(machine: Machine) -> str:
    """The intrinsics that the pieces call."""
    text = vector_declarations(machine.lanes)
    return text + "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n"


def input_kernel(m: int, element: Element, machine: Machine) -> int:
    """Address of the input transform of one tile, see `write_input`."""
    name = f"winograd_input_{m}_{machine.lanes}_{element.value}"
    return _compiled(name, lambda: write_input(name, m, element, machine), machine)


def weight_kernel(m: int, machine: Machine) -> int:
    """Address of the weight transform of one register of output channels, see `write_weights`."""
    name = f"winograd_weights_{m}_{machine.lanes}"
    return _compiled(name, lambda: write_weights(name, m, machine), machine)


def product_kernel(
    rows: int, columns: int, depth: int, element: Element, machine: Machine
) -> int:
    """Address of the product of ``rows`` rows by ``columns`` registers, see `write_product`."""
    name = f"winograd_product_{rows}_{columns}_{depth}_{machine.lanes}_{element.value}"
    head = _DOT_DECLARED if element is Element.BF16 else ""
    return _compiled(
        name, lambda: head + write_product(name, rows, columns, depth, element, machine), machine
    )


def _compiled(name: str, write: Callable[[], str], machine: Machine) -> int:
    return address_of_kernel(name, lambda: declarations(machine) + write())


def write_weights(name: str, m: int, machine: Machine) -> str:
    """G w GT for all input channels and one register of output channels.

    ``w`` is the first of them of weights [k, c, 3, 3]; ``u`` where those of the first matrix go,
    ``matrix`` the distance of matrices and ``step`` that of input channels there. ``taps`` is room
    for 9 registers.
    """
    lanes = machine.lanes
    f = Function(name, [
        ("ptr", "w"), ("ptr", "taps"), ("ptr", "u"), ("i64", "channels"), ("i64", "matrix"),
        ("i64", "step"),
    ], lanes)
    distance = f.integer("mul", "%channels", 9)
    with f.loop(0, "%channels") as channel:
        w = f.at("%w", f.integer("mul", channel.counter, 9))
        with f.loop(0, lanes) as lane:
            one = f.at(w, f.integer("mul", lane.counter, distance))
            with f.loop(0, 9) as tap:
                place = f.integer("add", f.integer("mul", tap.counter, lanes), lane.counter)
                f.store("float", f.load("float", f.at(one, tap.counter)), f.at("%taps", place))
        taps = [f.load(f.vector, f.at("%taps", tap * lanes)) for tap in range(9)]
        columns = [transform.apply_weight(f, m, taps[j::3]) for j in range(3)]
        u = f.at("%u", f.integer("mul", channel.counter, "%step"))
        for i in range(m + 2):
            values = transform.apply_weight(f, m, [column[i] for column in columns])
            for j, value in enumerate(values):
                place = f.integer("mul", "%matrix", i * (m + 2) + j)
                f.store(f.vector, value, f.at(u, place))
    return f.text


def write_input(name: str, m: int, element: Element, machine: Machine) -> str:
    """BT d B of one tile for all channels, from and to numbers of ``element``.

    ``x`` is the tile's first pixel, ``v`` where its channels of the first of the n * n matrices go,
    ``matrix`` the distance of these; ``row``, ``column`` and ``channel`` are the strides of x per
    pixel row, pixel and register of channels.
    """
    size = m + 2
    f = Function(name, [
        ("ptr", "x"), ("i64", "row"), ("i64", "column"), ("i64", "channel"),
        ("ptr", "v"), ("i64", "matrix"), ("i64", "channels"),
    ], machine.lanes)

    def at(pointer: str, offset: str) -> str:
        return f.at(pointer, offset, element.value)

    with f.loop(0, "%channels") as loop:
        x = at("%x", f.integer("mul", loop.counter, "%channel"))
        v = at("%v", f.integer("mul", loop.counter, machine.lanes))
        rows = [at(x, f.integer("mul", "%row", i)) for i in range(size)]
        steps = [f.integer("mul", "%column", j) for j in range(size)]
        columns = []
        for step in steps:
            pixels = [element.load(f, at(pointer, step)) for pointer in rows]
            columns.append(transform.apply_input(f, m, pixels))
        for i in range(size):
            values = transform.apply_input(f, m, [column[i] for column in columns])
            for j, value in enumerate(values):
                element.store(f, value, at(v, f.integer("mul", "%matrix", i * size + j)))
    return f.text


def write_product(
    name: str, rows: int, columns: int, depth: int, element: Element, machine: Machine
) -> str:
    """out[r, :] = sum over c of v[r, c] * u[c, :], all of it kept in registers.

    v [rows, depth], u [depth, columns * lanes] and out [rows, columns * lanes] are dense. The depth
    is a constant, so that one pointer reaches all rows: the CPU has too few for one each.
    Meanwhile the weights at ``ahead``, half as many as these, are fetched into the second-level
    cache: they come from memory, and the hardware alone does not ask for them in time.

    Of bf16, two channels lie where one f32 would, u [depth / 2, columns * lanes, 2]; one
    instruction multiplies and adds both, so that nothing else differs but the depth.
    """
    depth = depth * element.size_bytes // 4
    f = Function(name, [("ptr", p) for p in ("v", "u", "out", "ahead")], machine.lanes)
    width = columns * machine.lanes
    zeros = [(f.vector, "zeroinitializer")] * (rows * columns)
    with f.loop(0, depth, zeros) as loop:
        v, u = f.at("%v", loop.counter), f.at("%u", f.integer("mul", loop.counter, width))
        ahead = f.at("%ahead", f.integer("mul", loop.counter, width // 2))
        for n in range(max(columns // 2, 1)):
            f.call("@llvm.prefetch.p0", [
                ("ptr", f.at(ahead, n * machine.lanes)), ("i32", "0"), ("i32", "2"), ("i32", "1"),
            ])
        right = [f.load(f.vector, f.at(u, n * machine.lanes)) for n in range(columns)]
        for r in range(rows):
            left = f.broadcast(f.load("float", f.at(v, r * depth)))
            loop.updates += [
                _added(f, element, loop.carried[r * columns + n], left, right[n])
                for n in range(columns)
            ]
    for place, value in enumerate(loop.results):
        f.store(f.vector, value, f.at("%out", place * machine.lanes))
    return f.text


def _added(f: Function, element: Element, total: str, left: str, right: str) -> str:
    """Total + left * right, of bf16 the sum over the pairs."""
    if element is Element.F32:
        return f.intrinsic("fma", left, right, total)
    pairs = [f.value(f"bitcast {f.vector} {side} to {_PAIRS}") for side in (left, right)]
    arguments = f"{f.vector} {total}, {_PAIRS} {pairs[0]}, {_PAIRS} {pairs[1]}"
    return f.value(f"call {f.vector} {_DOT}({arguments})")
