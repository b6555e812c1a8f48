"""Finds layer kinds by name and writes their attributes as JSON and back.

Adding a kind means adding its file: nothing is listed here.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from torch2rt import expression as ex
from torch2rt.errors import RegistrationError
from torch2rt.network.dim import SymbolicDim, parse_dim
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import TensorType

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_NOT_KINDS = {"accumulator", "registry", "rules", "shapes", "specialize"}
_TENSOR_TYPE = re.compile(r"(\w+)\[(.*)\]")


@cache
def kind_class(name: str) -> type[LayerKind]:
    """The class of a kind, imported now. ValueError if no file has it."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _NOT_KINDS:
        raise ValueError(f"no layer kind {name!r}")
    module_name = f"torch2rt.layers.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ValueError(f"no layer kind {name!r}") from error
    classes = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, LayerKind)
        and value.__module__ == module_name
        and getattr(value, "name", None) == name
    ]
    if len(classes) != 1:
        raise RegistrationError(
            what="layer kind", name=name, first=module_name, second=f"{len(classes)} classes"
        )
    return classes[0]


@cache
def kind_names() -> tuple[str, ...]:
    """Names of all kinds: the files of this folder, but for those that hold rules alone."""
    return tuple(name for name in _module_names() if not name.endswith("_rules"))


@cache
def import_all_kinds() -> None:
    """Import every file of this folder, which registers the converter rules in them."""
    for name in _module_names():
        if name.endswith("_rules"):
            importlib.import_module(f"torch2rt.layers.{name}")
        else:
            kind_class(name)


def _module_names() -> list[str]:
    folder = str(Path(__file__).parent)
    names = [module.name for module in pkgutil.iter_modules([folder])]
    return sorted(name for name in names if name not in _NOT_KINDS)


def attributes_to_json(kind: LayerKind) -> dict[str, Json]:
    """Attributes that differ from their defaults, as JSON."""
    result: dict[str, Json] = {}
    for field in dataclasses.fields(kind):
        value = getattr(kind, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            result[field.name] = encode(value)
    return result


def kind_from_json(name: str, attributes: dict[str, Json]) -> LayerKind:
    """A kind from its name and attributes. ValueError says what does not fit."""
    cls = kind_class(name)
    known = {field.name: field for field in dataclasses.fields(cls)}
    unknown = set(attributes) - set(known)
    required = {n for n, f in known.items() if f.default is dataclasses.MISSING}
    missing = required - set(attributes)
    if unknown or missing:
        raise ValueError(
            f"{name}: unknown attributes {sorted(unknown)}, missing {sorted(missing)}"
        )
    return cls(**{key: decode(value) for key, value in attributes.items()})


def encode(value: Any) -> Json:
    """An attribute value as JSON. Dims, dtypes, expressions and tensor types are tagged."""
    match value:
        case float() if not math.isfinite(value):
            return {"float": repr(value)}
        case None | bool() | int() | float() | str():
            return value
        case tuple() | list():
            return [encode(item) for item in value]
        case SymbolicDim():
            return {"dim": str(value)}
        case DType():
            return {"dtype": value.value}
        case TensorType():
            return {"tensor": str(value)}
        case ex.Input() | ex.Constant() | ex.Apply():
            return {"expression": value.text}
    raise TypeError(f"attribute of type {type(value).__name__} cannot be saved")


def decode(value: Json) -> Any:
    """The inverse of `encode`; lists become tuples. ValueError on anything else."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return tuple(decode(item) for item in value)
        case {"float": str(text)} if text in ("inf", "-inf", "nan"):
            return float(text)
        case {"dim": str(text)}:
            return parse_dim(text)
        case {"dtype": str(text)}:
            return DType(text)
        case {"tensor": str(text)}:
            return parse_tensor_type(text)
        case {"expression": str(text)}:
            return ex.parse_expression(text)
    raise ValueError(f"not an attribute value: {str(value)[:80]}")


def parse_tensor_type(text: str) -> TensorType:
    """Read ``float32[s0,3]``; ValueError says what is wrong."""
    match = _TENSOR_TYPE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a tensor type: {text[:80]!r}")
    return TensorType(
        tuple(parse_dim(part) for part in split_commas(match.group(2))), DType(match.group(1))
    )


def split_commas(text: str) -> list[str]:
    """Split at the commas outside all parentheses; an empty text gives no parts."""
    parts: list[str] = []
    depth = start = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    last = text[start:]
    return [part.strip() for part in (*parts, last)] if text.strip() else []
