"""What the functions of a thread share: the job's numbers, and the thread's part of the work."""

from __future__ import annotations

from enum import IntEnum

from torch2rt.backends.cpu.jit import Function
from torch2rt.backends.cpu.vnni.kernel import LANES


class DriverWriter:
    """Writes a function whose argument is an array of the numbers that ``fields`` names."""

    def __init__(self, name: str, fields: type[IntEnum]) -> None:
        self.f = Function(name, [("ptr", "data")], LANES)
        self.get: dict[IntEnum, str] = {
            field: self.f.load("i64", self.f.at("%data", field.value, "i64"), 8)
            for field in fields
        }

    def ask(self, field: IntEnum) -> str:
        """What the function says whose address a field has: a number of 32 bits."""
        narrow = self.f.value(f"call i32 {self.pointer(field)}()")
        return self.f.value(f"sext i32 {narrow} to i64")

    def pointer(self, field: IntEnum) -> str:
        """A field as an address."""
        return self.f.value(f"inttoptr i64 {self.get[field]} to ptr")

    def part(self, index: str, parts: str, count: str) -> tuple[str, str]:
        """Where part ``index`` of so many nearly equal ones starts and ends."""
        f = self.f
        after = f.integer("add", index, 1)
        begin = f.integer("sdiv", f.integer("mul", index, count), parts)
        return begin, f.integer("sdiv", f.integer("mul", after, count), parts)
