"""Python values that an engine bakes in: which ones, when two are the same, and as JSON."""

from __future__ import annotations

import enum
from typing import TypeAlias

import torch

from torch2rt.errors import PytreeError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_PLAIN = (type(None), bool, int, float, complex, str, bytes, slice, range, type(...))
_NAMED_IN_TORCH = (torch.dtype, torch.layout, torch.memory_format)
_TORCH = (*_NAMED_IN_TORCH, torch.device)


def is_constant(value: object) -> bool:
    """Whether a value can be part of an engine, compared at every call."""
    if isinstance(value, torch.Size):
        return all(isinstance(size, int) for size in value)  # sizes may be symbolic in a capture
    return isinstance(value, (*_PLAIN, *_TORCH, enum.Enum))


def same_constant(left: object, right: object) -> bool:
    """Equal and of one type; a NaN equals a NaN."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if left == right:
        return True
    return isinstance(left, float) and left != left and right != right


def constant_to_json(value: object, path: str) -> Json:
    """A constant as JSON. PytreeError, naming ``path``, for one that JSON cannot hold."""
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, _NAMED_IN_TORCH):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if isinstance(value, tuple):
        return {"tuple": [constant_to_json(item, path) for item in value]}
    if isinstance(value, slice):
        return {"slice": [constant_to_json(v, path) for v in (value.start, value.stop, value.step)]}
    raise PytreeError(
        path=path, reason=f"the value {value!r} of type {type(value).__name__} cannot be saved",
        remedy="Give the model plain numbers, strings, dtypes or devices here",
    )


def constant_from_json(data: Json) -> object:
    """Inverse of `constant_to_json`. ValueError for anything else."""
    if data is None or isinstance(data, bool | int | str):
        return data
    if isinstance(data, dict) and len(data) == 1:
        ((kind, content),) = data.items()
        try:
            if isinstance(content, str):
                return _from_text(kind, content)
            if isinstance(content, list):
                return _from_list(kind, content)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise ValueError(f"not a constant: {data!r}") from error
    raise ValueError(f"not a constant: {data!r}")


def _from_text(kind: str, content: str) -> object:
    match kind:
        case "float":
            return float.fromhex(content)
        case "bytes":
            return bytes.fromhex(content)
        case "device":
            return torch.device(content)
        case "torch":
            found = vars(torch).get(content)
            if isinstance(found, _NAMED_IN_TORCH):
                return found
    raise ValueError(f"not a constant: {kind} {content!r}")


def _from_list(kind: str, content: list[Json]) -> object:
    items = [constant_from_json(item) for item in content]
    match kind:
        case "complex":
            return complex(*(float.fromhex(str(item)) for item in items))
        case "size":
            return torch.Size(int(str(item)) for item in items)
        case "tuple":
            return tuple(items)
        case "slice":
            return slice(*items)
    raise ValueError(f"not a constant: {kind} {content!r}")
