"""A class known by its importable name: kept in saved engines, looked up when it is needed."""

from __future__ import annotations

import importlib
import sys
from weakref import WeakValueDictionary

from torch2rt.errors import PytreeError

_captured: WeakValueDictionary[str, type] = WeakValueDictionary()


class ClassName:
    """A class by ``module`` and ``qualname``, resolved at first use.

    Pickle keeps the two strings only, so a file can be unpickled where the class is missing; the
    first use then imports the module. A name read from an engine file is not ``trusted``: such a
    file must not be able to run code, so its class is only looked up in modules that the program
    has imported itself, and among the classes that this process has captured.
    """

    __slots__ = ("_found", "module", "qualname", "trusted")

    def __init__(self, module: str, qualname: str, *, trusted: bool = False) -> None:
        self.module = module
        self.qualname = qualname
        self.trusted = trusted
        self._found = _captured.get(f"{module}.{qualname}")

    @classmethod
    def of(cls, found: type) -> ClassName:
        """Name of a class that is at hand."""
        name = cls(found.__module__, found.__qualname__, trusted=True)
        name._found = _captured[str(name)] = found
        return name

    def resolve(self) -> type:
        """The class. PytreeError says which module to import, or that it is gone."""
        if self._found is None:
            self._found = self._look_up()
        return self._found

    def _look_up(self) -> type:
        if self.trusted:
            try:
                module = importlib.import_module(self.module)
            except ImportError as error:
                raise self._missing(f"module {self.module} cannot be imported") from error
        elif self.module in sys.modules:
            module = sys.modules[self.module]
        else:
            raise self._missing(f"module {self.module} has not been imported")
        try:
            found: object = module
            for part in self.qualname.split("."):
                found = getattr(found, part)
        except AttributeError as error:
            raise self._missing(f"module {self.module} has no {self.qualname}") from error
        if not isinstance(found, type):
            raise self._missing(f"{self} is not a class")
        return found

    def _missing(self, reason: str) -> PytreeError:
        return PytreeError(
            path=f"class {self}", reason=reason,
            remedy=f"Import {self.module} before using the engine; the model's outputs need it",
        )

    def __str__(self) -> str:
        return f"{self.module}.{self.qualname}"

    def __repr__(self) -> str:
        return f"ClassName({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassName) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __deepcopy__(self, memo: dict[int, object]) -> ClassName:
        return self  # immutable, and a class local to a function has no other way to travel

    def __reduce__(self) -> tuple[object, ...]:
        return _named, (self.module, self.qualname, self.trusted)


def _named(module: str, qualname: str, trusted: bool) -> ClassName:
    return ClassName(module, qualname, trusted=trusted)
