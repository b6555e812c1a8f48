"""The compiled pieces of a Winograd convolution that know neither shapes nor epilogue.

Sizes and strides are arguments, in f32 elements, so that one process compiles each piece once.
"""

from __future__ import annotations

from collections.abc import Callable

from torch2rt.backends.cpu.jit import Function, Machine, address_of_kernel
from torch2rt.backends.cpu.winograd import transform

_FMA = "declare {v} @llvm.fma.v{n}f32({v}, {v}, {v})\n"


def declarations(machine: Machine) -> str:
    """The intrinsics that the pieces call."""
    kind = f"<{machine.lanes} x float>"
    text = _FMA.format(v=kind, n=machine.lanes)
    for name in ("sqrt", "fabs"):
        text += f"declare {kind} @llvm.{name}.v{machine.lanes}f32({kind})\n"
    return text + "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n"


def input_kernel(m: int, machine: Machine) -> int:
    """Address of the input transform of one tile, see `write_input`."""
    name = f"winograd_input_{m}_{machine.lanes}"
    return _compiled(name, lambda: write_input(name, m, machine), machine)


def product_kernels(columns: int, machine: Machine) -> list[int]:
    """Addresses of the products of 1 to ``machine.rows`` rows by ``columns`` registers."""
    def write() -> str:
        return "".join(
            write_product(_product_name(rows, columns, machine), rows, columns, machine)
            for rows in range(1, machine.rows + 1)
        )
    return [
        _compiled(_product_name(rows, columns, machine), write, machine)
        for rows in range(1, machine.rows + 1)
    ]


def _product_name(rows: int, columns: int, machine: Machine) -> str:
    return f"winograd_product_{rows}_{columns}_{machine.lanes}"


def _compiled(name: str, write: Callable[[], str], machine: Machine) -> int:
    return address_of_kernel(name, lambda: declarations(machine) + write())


def write_input(name: str, m: int, machine: Machine) -> str:
    """BT d B of one tile for all channels.

    ``x`` is the tile's first pixel, ``v`` where its channels of the first of the n * n matrices go,
    ``matrix`` the distance of these; ``row``, ``column`` and ``channel`` are the strides of x per
    pixel row, pixel and register of channels.
    """
    size = m + 2
    f = Function(name, [
        ("ptr", "x"), ("i64", "row"), ("i64", "column"), ("i64", "channel"),
        ("ptr", "v"), ("i64", "matrix"), ("i64", "channels"),
    ], machine.lanes)
    with f.loop(0, "%channels") as loop:
        x = f.at("%x", f.integer("mul", loop.counter, "%channel"))
        v = f.at("%v", f.integer("mul", loop.counter, machine.lanes))
        rows = [f.at(x, f.integer("mul", "%row", i)) for i in range(size)]
        steps = [f.integer("mul", "%column", j) for j in range(size)]
        columns = []
        for step in steps:
            pixels = [f.load(f.vector, f.at(pointer, step)) for pointer in rows]
            columns.append(transform.apply_input(f, m, pixels))
        for i in range(size):
            values = transform.apply_input(f, m, [column[i] for column in columns])
            for j, value in enumerate(values):
                target = f.at(v, f.integer("mul", "%matrix", i * size + j))
                f.store(f.vector, value, target)
    return f.text


def write_product(name: str, rows: int, columns: int, machine: Machine) -> str:
    """out[r, :] = sum over c of v[r, c] * u[c, :], all of it kept in registers.

    v [rows, depth], u [depth, columns * lanes], both dense; ``width`` is the stride of out's rows.
    Meanwhile the weights at ``ahead``, half as many as these, are fetched into the second-level
    cache: they come from memory, and the hardware alone does not ask for them in time.
    """
    f = Function(name, [
        ("ptr", "v"), ("ptr", "u"), ("ptr", "out"), ("ptr", "ahead"), ("i64", "depth"), ("i64", "width"),
    ], machine.lanes)
    starts = ["%v", *(f.at("%v", f.integer("mul", "%depth", r)) for r in range(1, rows))]
    zeros = [(f.vector, "zeroinitializer")] * (rows * columns)
    with f.loop(0, "%depth", zeros) as loop:
        u = f.at("%u", f.integer("mul", loop.counter, columns * machine.lanes))
        ahead = f.at("%ahead", f.integer("mul", loop.counter, columns * machine.lanes // 2))
        for n in range(0, max(columns // 2, 1)):
            f.call("@llvm.prefetch.p0", [
                ("ptr", f.at(ahead, n * machine.lanes)), ("i32", "0"), ("i32", "2"), ("i32", "1"),
            ])
        right = [f.load(f.vector, f.at(u, n * machine.lanes)) for n in range(columns)]
        for r, start in enumerate(starts):
            left = f.broadcast(f.load("float", f.at(start, loop.counter)))
            loop.updates += [
                f.intrinsic("fma", left, right[n], loop.carried[r * columns + n])
                for n in range(columns)
            ]
    for r in range(rows):
        out = f.at("%out", f.integer("mul", "%width", r))
        for n in range(columns):
            f.store(f.vector, loop.results[r * columns + n], f.at(out, n * machine.lanes))
    return f.text
