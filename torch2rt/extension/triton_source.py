"""The text of a Triton kernel: its function, and what of its module it names. Imports no Triton."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

_HEAD = "import triton\nimport triton.language as tl\n\n"


def source_text(function: Any) -> tuple[str, str]:
    """A module's text that defines the function, and the function's name."""
    parts = dict(_parts(function, set()))
    return _HEAD + "\n\n".join(parts.values()) + "\n", function.__name__


def parameter_names(function: Any, constants: Mapping[str, Any]) -> tuple[str, ...]:
    """The kernel's parameters in order. ValueError for a constant that is none of them."""
    names = tuple(inspect.signature(function.fn).parameters)
    unknown = set(constants) - set(names)
    if unknown:
        raise ValueError(f"Triton kernel {function.__name__} has no parameter {sorted(unknown)}")
    return names


def _parts(function: Any, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Definitions in order of need: what a function names comes before it."""
    seen.add(function.__name__)
    code = function.fn.__code__
    for name in code.co_names:
        value = function.fn.__globals__.get(name)
        if name in seen or value is None:
            continue
        if hasattr(value, "fn") and hasattr(value.fn, "__code__"):
            yield from _parts(value, seen)
        elif type(value).__name__ == "constexpr":
            seen.add(name)
            yield name, f"{name} = tl.constexpr({value.value!r})"
    yield function.__name__, "@triton.jit\n" + _without_decorators(function.fn)


def _without_decorators(function: Any) -> str:
    text = textwrap.dedent(inspect.getsource(function))
    return text[text.index("def ") :]
