"""The contenders, one file each, found by their file's name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TypeGuard

from torch2rt.bench.contenders.base import BuildRequest, Contender
from torch2rt.bench.errors import BenchModelError, UnknownContenderError
from torch2rt.bench.machine import NOT_INSTALLED as ABSENT
from torch2rt.bench.machine import library_version
from torch2rt.bench.protocol import Refused
from torch2rt.bench.result import NOT_AVAILABLE, NOT_INSTALLED
from torch2rt.bench.source import import_object

# Files of this folder that are no contender.
_HELPERS = frozenset({"__init__", "base", "adapter"})


def contender_names() -> list[str]:
    """The shipped contenders, in alphabetical order."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if file.stem not in _HELPERS)


def load_contender(name: str) -> Contender:
    """An instance of the contender ``name``, or of the class ``module:Class``.

    Raises:
        UnknownContenderError: there is no such contender.
    """
    names = contender_names()
    known = ", ".join(names)
    if name in names:
        module = importlib.import_module(f"{__name__}.{name}")
        classes = [c for c in vars(module).values() if _is_contender(c) and c.name == name]
        return classes[0]()
    if ":" not in name:
        raise UnknownContenderError(name=name, detail="", known=known)
    try:
        found = import_object(name)
    except BenchModelError as error:
        raise UnknownContenderError(name=name, detail=f" ({error})", known=known) from error
    if not _is_contender(found):
        raise UnknownContenderError(name=name, detail=" (it is no Contender class)", known=known)
    return found()


def refusal(contender: Contender, precision: str, device: str) -> Refused | None:
    """Why a contender cannot take part at all, as far as can be told without building."""
    missing = [name for name in contender.packages if library_version(name) == ABSENT]
    if missing:
        return Refused(NOT_INSTALLED, f"not installed: pip install {' '.join(missing)}")
    kind = device.partition(":")[0]
    if kind not in contender.devices:
        return Refused(NOT_AVAILABLE, f"does not run on {kind}")
    if precision not in contender.variants_on(device):
        return Refused(NOT_AVAILABLE, f"has no {precision} on {kind}")
    return None


def _is_contender(value: object) -> TypeGuard[type[Contender]]:
    return isinstance(value, type) and issubclass(value, Contender) and value is not Contender


__all__ = [
    "BuildRequest",
    "Contender",
    "contender_names",
    "load_contender",
    "refusal",
]
