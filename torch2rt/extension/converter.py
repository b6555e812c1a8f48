"""Converter rules of users: how an operator of torch becomes layers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torch2rt.errors import ConfigError
from torch2rt.layers.rules import Rule, remove_user_rule, user_rule


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
            user_rule(name, function)
        return function

    return register


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
