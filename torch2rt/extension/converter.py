"""Converter rules of users: how an operator of torch becomes layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from torch2rt.errors import ConfigError, ConverterError, Torch2rtError
from torch2rt.extension.function import source_of
from torch2rt.layers.rules import Rule, Unsupported, remove_user_rule, user_rule
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering


def converter(*targets: object) -> Callable[[Rule], Rule]:
    """Register a function as the converter rule of operators; it goes before torch2rt's own.

    The function is given the lowering and the node's arguments by their names in the operator's
    schema (``self`` is called ``input``): tensors are network tensors, sizes integers or symbols.
    ``lowering.network`` is the network under construction, ``lowering.node`` the captured node,
    ``lowering.output_type`` what it must give. It returns a tensor, or a list of them. Raising
    ``Unsupported`` leaves the node to torch, with that reason.

    The report names every operator for which a user's rule went before one of ours.

    Args:
        targets: operators, such as ``torch.ops.aten.relu.default``, or their names,
            ``"aten.relu.default"``.

    Raises:
        RegistrationError: another function is registered for an operator; both are named.
        ConfigError: a target is no operator.

    Example:
        >>> @torch2rt.converter(torch.ops.aten.celu.default)
        ... def lower_celu(lowering, input, alpha):
        ...     scaled = lowering.pointwise("div", input, alpha)
        ...     return lowering.pointwise("mul", lowering.pointwise("elu", scaled, 1.0), alpha)
    """
    names = [_name(target) for target in targets]

    def register(function: Rule) -> Rule:
        for name in names:
            user_rule(name, _told(name, function), source_of(function))
        return function

    return register


def _told(name: str, function: Rule) -> Rule:
    """The rule; what it raises, and what it must not return, is told as its own."""

    def call(lowering: Lowering, **given: Any) -> Tensor | list[Tensor]:
        try:
            found = function(lowering, **given)
        except (Unsupported, Torch2rtError):
            raise
        except Exception as error:  # whatever it is, it is the rule's
            raise _error(f"it raised {type(error).__name__}: {error}", lowering, given) from error
        results = found if isinstance(found, list | tuple) else [found]
        if not all(isinstance(item, Tensor) for item in results):
            raise _error(f"it returned {found!r}, not tensors of the network", lowering, given)
        return found

    def _error(reason: str, lowering: Lowering, given: Mapping[str, Any]) -> ConverterError:
        return ConverterError(
            rule=source_of(function), op=name, where=lowering.origin, reason=reason,
            given=", ".join(given),
        )

    return call


def remove_converter(*targets: object) -> None:
    """Forget users' rules of these operators: torch2rt's own count again."""
    for target in targets:
        remove_user_rule(_name(target))


def _name(target: object) -> str:
    if isinstance(target, torch._ops.OpOverloadPacket):
        target = getattr(target, "default", target)
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name.replace('::', '.')}.{target._overloadname}"
    if isinstance(target, str) and target.count(".") == 2:
        return target
    raise ConfigError(
        option="target", value=target, reason="no operator",
        remedy='Pass torch.ops.aten.relu.default, or "aten.relu.default".',
    )
