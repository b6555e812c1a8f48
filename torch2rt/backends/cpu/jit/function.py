"""The text of one LLVM function: values, vectors, loops that carry registers, conditions.

The text is written the way code generation wants it (no stack slots, registers carried by loops),
so that it is compiled without LLVM's optimisation passes, which cost more time than it does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Loop:
    """A loop being written: the counter, the carried values at the start of a round.

    Set ``updates`` to their values at its end; after the loop ``results`` are the last ones.
    """

    counter: str
    carried: list[str]
    updates: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


class Function:
    """One exported function without result. ``parameters`` are (type, name) pairs.

    Vectors have ``lanes`` f32 numbers. Offsets of `at` count elements of the type named.
    """

    def __init__(self, name: str, parameters: Sequence[tuple[str, str]], lanes: int) -> None:
        self.name = name
        self.lanes = lanes
        self.vector = f"<{lanes} x float>"
        self._parameters = ", ".join(f"{kind} %{given}" for kind, given in parameters)
        self._lines: list[str] = []
        self._count = 0
        self._block = "entry"

    @property
    def text(self) -> str:
        """The definition."""
        body = "\n".join(self._lines)
        head = f'define void @{self.name}({self._parameters}) "no-builtins"'
        return f"{head} {{\nentry:\n{body}\n  ret void\n}}\n"

    def value(self, instruction: str) -> str:
        """Add an instruction; the name of its result."""
        name = self._name()
        self._lines.append(f"  {name} = {instruction}")
        return name

    def effect(self, instruction: str) -> None:
        """Add an instruction without result."""
        self._lines.append(f"  {instruction}")

    def integer(self, op: str, left: str | int, right: str | int) -> str:
        """``add``, ``sub``, ``mul``, ``sdiv`` ... of 64-bit integers."""
        return self.value(f"{op} i64 {left}, {right}")

    def compare(self, how: str, left: str | int, right: str | int) -> str:
        """``slt``, ``sge`` ... of 64-bit integers, as i1."""
        return self.value(f"icmp {how} i64 {left}, {right}")

    def at(self, pointer: str, offset: str | int, element: str = "float") -> str:
        """The pointer moved by ``offset`` elements."""
        return self.value(f"getelementptr {element}, ptr {pointer}, i64 {offset}")

    def load(self, kind: str, pointer: str, alignment: int = 4) -> str:
        """What lies at a pointer."""
        return self.value(f"load {kind}, ptr {pointer}, align {alignment}")

    def store(self, kind: str, value: str, pointer: str, alignment: int = 4) -> None:
        """Write a value to a pointer."""
        self.effect(f"store {kind} {value}, ptr {pointer}, align {alignment}")

    def call(self, function: str, arguments: Sequence[tuple[str, str]]) -> None:
        """Call a function without result, given its name or a pointer to it."""
        self.effect(f"call void {function}({', '.join(f'{k} {v}' for k, v in arguments)})")

    def broadcast(self, scalar: str) -> str:
        """A vector of one float."""
        kind = self.vector
        single = self.value(f"insertelement {kind} poison, float {scalar}, i64 0")
        mask = f"<{self.lanes} x i32> zeroinitializer"
        return self.value(f"shufflevector {kind} {single}, {kind} poison, {mask}")

    def constant(self, number: float) -> str:
        """A literal vector of one number, rounded to f32."""
        bits = struct.unpack("<Q", struct.pack("<d", _rounded(number)))[0]
        return "<" + ", ".join([f"float 0x{bits:016X}"] * self.lanes) + ">"

    def math(self, op: str, left: str, right: str) -> str:
        """``fadd``, ``fsub``, ``fmul`` or ``fdiv`` of vectors."""
        return self.value(f"{op} {self.vector} {left}, {right}")

    def intrinsic(self, name: str, *arguments: str) -> str:
        """``llvm.name`` of vectors: fma, sqrt, fabs."""
        given = ", ".join(f"{self.vector} {argument}" for argument in arguments)
        return self.value(f"call {self.vector} @llvm.{name}.v{self.lanes}f32({given})")

    def select(self, how: str, left: str, right: str, yes: str, no: str) -> str:
        """Per lane ``yes`` where the comparison holds, else ``no``."""
        mask = self.value(f"fcmp {how} {self.vector} {left}, {right}")
        kind = self.vector
        return self.value(f"select <{self.lanes} x i1> {mask}, {kind} {yes}, {kind} {no}")

    @contextmanager
    def loop(
        self, start: str | int, end: str | int, carried: Sequence[tuple[str, str]] = (),
    ) -> Iterator[Loop]:
        """Count from ``start`` to before ``end``, at least once. ``carried`` are (type, start)."""
        before, body, after = self._block, self._label(), self._label()
        self.effect(f"br label %{body}")
        self._start(body)
        names = [self._name() for _ in range(len(carried) + 1)]
        place = len(self._lines)
        loop = Loop(names[0], names[1:])
        yield loop
        following = self.integer("add", loop.counter, 1)
        again = self.compare("slt", following, end)
        self.effect(f"br i1 {again}, label %{body}, label %{after}")
        kinds = [("i64", str(start)), *carried]
        self._lines[place:place] = [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {last}, %{self._block} ]"
            for name, (kind, first), last in zip(
                names, kinds, [following, *loop.updates], strict=True
            )
        ]
        loop.results = loop.updates
        self._start(after)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """What is written inside runs only if the i1 holds."""
        inside, after = self._label(), self._label()
        self.effect(f"br i1 {condition}, label %{inside}, label %{after}")
        self._start(inside)
        yield
        self.effect(f"br label %{after}")
        self._start(after)

    def _start(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block = label

    def _name(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def _label(self) -> str:
        self._count += 1
        return f"b{self._count}"


def _rounded(number: float) -> float:
    """The nearest f32 number."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")
