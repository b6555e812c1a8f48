"""Runs code of users, and tells what it raised under the plugin's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch2rt.errors import PluginError, Torch2rtError
from torch2rt.network.dtype import DType

# What code that was written for tensors with data raises on tensors without.
_FAKE_FAILURES = (
    RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError,
    ArithmeticError,
)


class NeedsDataError(RuntimeError):
    """A plugin's code does not run on tensors without data. Captures tell of it, with a remedy."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


GIVE_FAKE = (
    "Give plugin(..., fake=...): a function of the same parameters that returns empty tensors of "
    "the outputs' shapes and dtypes."
)


def call_without_data(
    name: str, function: Callable[[], Any], remedy: str = GIVE_FAKE
) -> Any:
    """``function()`` on tensors without data. NeedsDataError where it cannot."""
    try:
        return function()
    except Torch2rtError:
        raise
    except _FAKE_FAILURES as error:
        lines = str(error).strip().splitlines() or [""]
        raise NeedsDataError(
            f"plugin {name!r} does not run on tensors without data "
            f"({type(error).__name__}: {lines[0]})", remedy,
        ) from error


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
