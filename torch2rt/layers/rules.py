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
# Rules of users and of their plugins, each with where it stands.
_USER_RULES: dict[str, tuple[Rule, str]] = {}


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


def user_rule(overload: str, function: Rule, source: str | None = None) -> None:
    """Register a user's rule, which goes before ours; the same one again replaces it.

    RegistrationError names both where two users, or plugins, want one overload.
    """
    where = source or _source(function)
    known = _USER_RULES.get(overload)
    if known is not None and known[1] != where:
        raise RegistrationError(
            what="converter rule", name=overload, first=known[1], second=where
        )
    _USER_RULES[overload] = (function, where)


def remove_user_rule(overload: str) -> None:
    """Forget a user's rule, if there is one: ours counts again."""
    _USER_RULES.pop(overload, None)


def overriding_rule(overload: str) -> str | None:
    """Where the user's rule stands that goes before one of ours; None if there is no such."""
    if overload not in _RULES or overload not in _USER_RULES:
        return None
    return _USER_RULES[overload][1]


def find_rule(overload: str) -> Rule | None:
    """The rule of an overload, a user's first; None if there is none."""
    if overload in _USER_RULES:
        return _USER_RULES[overload][0]
    return _RULES.get(overload)


def rule_names() -> tuple[str, ...]:
    """All overloads with a rule, sorted."""
    return tuple(sorted({*_RULES, *_USER_RULES}))


def _source(function: Callable[..., Any]) -> str:
    return f"{inspect.getsourcefile(function)}:{function.__qualname__}"
