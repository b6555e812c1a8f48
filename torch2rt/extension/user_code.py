"""Runs code of users, and tells what it raised under the plugin's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch2rt.errors import PluginError, Torch2rtError
from torch2rt.network.dtype import DType


def call_user(
    name: str, what: str, function: Callable[..., Any], *arguments: Any,
    shown: Sequence[Any] | None = None,
) -> Any:
    """``function(*arguments)``. PluginError says what was raised, and for which arguments.

    ``shown`` are the arguments to tell of; default: all.
    """
    try:
        return function(*arguments)
    except Torch2rtError:
        raise
    except Exception as error:  # whatever it is, it is the plugin's
        given = ", ".join(described(item) for item in (arguments if shown is None else shown))
        raise PluginError(
            name=name, where="",
            reason=f"{what} raised {type(error).__name__}: {error}; it was given {given}",
            remedy="The traceback above shows the line of the plugin",
        ) from error


def described(value: Any) -> str:
    """An argument in few words: arrays and tensors by dtype and shape."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(described(item) for item in value)}]"
    shape = getattr(value, "shape", None)
    if shape is None:
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    found = value.dtype
    dtype = found.value if isinstance(found, DType) else str(found).removeprefix("torch.")
    return f"{dtype}[{','.join(map(str, shape))}]"
