"""Converter rules: which function turns which ATen overload into layers.

    @rule("aten.relu.default")
    def lower_relu(lowering: Lowering, x: Tensor) -> Tensor:
        return lowering.pointwise("relu", x)

A rule is called with the lowering and the node's arguments by their schema names: a tensor
argument is a network `Tensor`, a size is a `Dim`, a dtype is a `DType`; anything else is the plain
Python value. Defaults of the schema are filled in. It returns one `Tensor`, or a list of them for
an op with several results. A rule that cannot take these arguments raises `Unsupported`, and the
node becomes a fallback with that reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from torch2rt.errors import RegistrationError

if TYPE_CHECKING:
    from torch2rt.network.tensor import Tensor

Rule: TypeAlias = "Callable[..., Tensor | list[Tensor]]"

_RULES: dict[str, Rule] = {}
_USER_RULES: dict[str, Rule] = {}


class Unsupported(Exception):
    """Raised by a rule for arguments it does not take; the text is the reason."""


def rule(*overloads: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these ATen overloads, e.g. ``"aten.relu.default"``."""

    def register(function: Rule) -> Rule:
        for overload in overloads:
            if overload in _RULES and _source(_RULES[overload]) != _source(function):
                raise RegistrationError(
                    what="converter rule",
                    name=overload,
                    first=_source(_RULES[overload]),
                    second=_source(function),
                )
            _RULES[overload] = function
        return function

    return register


def user_rule(overload: str, function: Rule) -> None:
    """Register a user's rule; it goes before ours."""
    _USER_RULES[overload] = function


def find_rule(overload: str) -> Rule | None:
    """The rule of an overload, a user's first; None if there is none."""
    return _USER_RULES.get(overload) or _RULES.get(overload)


def rule_names() -> tuple[str, ...]:
    """All overloads with a rule, sorted."""
    return tuple(sorted({*_RULES, *_USER_RULES}))


def _source(function: Callable[..., Any]) -> str:
    return f"{inspect.getsourcefile(function)}:{function.__qualname__}"
