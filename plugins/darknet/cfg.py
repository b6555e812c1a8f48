"""Darknet's ``.cfg`` text: sections of ``name=value`` lines.

    [convolutional]
    filters=32        # kept as text until a layer asks for it
    size = 3

Lines that start with ``#`` or ``;`` are comments; all white space is dropped, as Darknet does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch2rt.plugins.darknet.errors import DarknetError

# A size beyond this is damage, not a network.
_LARGEST = 1 << 24
_SYNONYMS = {"conv": "convolutional", "network": "net", "max": "maxpool", "avg": "avgpool",
             "conn": "connected", "soft": "softmax"}


@dataclass(frozen=True, slots=True)
class Section:
    """One section: what it builds, where it stands, and its options as text."""

    kind: str
    line: int
    options: Mapping[str, str]

    @property
    def where(self) -> str:
        """How errors call it."""
        return f"cfg, [{self.kind}] at line {self.line}"

    def integer(self, name: str, default: int | None = None, at_least: int = 0) -> int:
        """An option that is one whole number. DarknetError if it is none or is not there."""
        text = self._text(name, default)
        try:
            value = int(text)
        except ValueError as error:
            raise self.error(f"{name}={text!r} is not a whole number") from error
        if not at_least <= value <= _LARGEST:
            raise self.error(f"{name}={value} is not within {at_least}..{_LARGEST}")
        return value

    def integers(self, name: str) -> list[int]:
        """An option that lists whole numbers."""
        text = self._text(name, None)
        try:
            return [int(item) for item in text.split(",") if item]
        except ValueError as error:
            raise self.error(f"{name}={text!r} is not a list of whole numbers") from error

    def numbers(self, name: str) -> list[float]:
        """An option that lists finite numbers."""
        text = self._text(name, None)
        try:
            values = [float(item) for item in text.split(",") if item]
        except ValueError as error:
            raise self.error(f"{name}={text!r} is not a list of numbers") from error
        if not all(math.isfinite(value) for value in values):
            raise self.error(f"{name}={text!r} has a number that is not finite")
        return values

    def number(self, name: str, default: float) -> float:
        """An option that is one finite number."""
        if name not in self.options:
            return default
        values = self.numbers(name)
        if len(values) != 1:
            raise self.error(f"{name}={self.options[name]!r} is not one number")
        return values[0]

    def choice(self, name: str, default: str) -> str:
        """An option that is a word."""
        return self.options.get(name, default)

    def _text(self, name: str, default: int | None) -> str:
        if name in self.options:
            return self.options[name]
        if default is None:
            raise self.error(f"the option {name} is missing")
        return str(default)

    def error(self, reason: str) -> DarknetError:
        """An error of this section."""
        return DarknetError(file=self.where, reason=reason)


def parse_cfg(text: str) -> list[Section]:
    """The sections of a ``.cfg``, the first being ``[net]``. DarknetError if the text is none."""
    sections: list[Section] = []
    options: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise _error(number, f"{raw.strip()!r} does not end with ]")
            options = {}
            kind = line[1:-1]
            sections.append(Section(_SYNONYMS.get(kind, kind), number, options))
            continue
        name, equals, value = line.partition("=")
        if not equals or not name:
            raise _error(number, f"{raw.strip()!r} is neither [section] nor name=value")
        if not sections:
            raise _error(number, f"the option {name} stands before the first [section]")
        options[name] = value.partition("#")[0]
    if not sections or sections[0].kind != "net":
        found = f"[{sections[0].kind}]" if sections else "nothing"
        raise _error(1, f"a network starts with [net], this starts with {found}")
    if len(sections) == 1:
        raise sections[0].error("the network has no layers")
    return sections


def read_cfg(path: str | os.PathLike[str]) -> list[Section]:
    """The sections of a ``.cfg`` file."""
    try:
        return parse_cfg(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DarknetError(file=f"cfg {path}", reason=f"it is not text ({error})") from error


def _error(line: int, reason: str) -> DarknetError:
    return DarknetError(file=f"cfg, line {line}", reason=reason)
