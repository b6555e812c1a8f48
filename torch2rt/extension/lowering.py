"""Plugins in captured graphs become layers: the converter rules of their operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from torch2rt.extension.bound import bound_kind
from torch2rt.extension.function import FunctionDefinition, operator_name
from torch2rt.extension.registry import Definition, PluginCall
from torch2rt.layers.rules import Unsupported, user_rule
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering


def add_rule(definition: FunctionDefinition) -> None:
    """Make calls of the plugin's operator layers of kind plugin."""
    user_rule(operator_name(definition.overload), _rule_of(definition), definition.source)


def _rule_of(definition: FunctionDefinition) -> Callable[..., Tensor | list[Tensor]]:
    def lower(lowering: Lowering, **bound: Any) -> Tensor | list[Tensor]:
        tensors: list[Tensor] = []
        arguments = tuple(_encoded(value, tensors) for value in bound.values())
        return lower_call(lowering, definition, PluginCall(arguments), tensors)

    return lower


def lower_call(
    lowering: Lowering, definition: Definition, call: PluginCall, tensors: list[Tensor]
) -> Tensor | list[Tensor]:
    """Add the layer of one call; its results as the node has them."""
    assert lowering.node is not None
    is_single = isinstance(lowering.node.meta["val"], torch.Tensor)
    types = [lowering.output_type] if is_single else lowering.output_types
    kind = bound_kind(definition, call, [tensor.type for tensor in tensors], types)
    name = lowering.origin.module_path or definition.name.partition("::")[2]
    layer = lowering.network.add(kind, tensors, name=name, origins=(lowering.origin,))
    return layer.output if is_single else list(layer.outputs)


def _encoded(value: Any, tensors: list[Tensor]) -> Any:
    match value:
        case Tensor():
            tensors.append(value)
            return ("tensor", len(tensors) - 1)
        case list() | tuple():
            return ("list", *(_encoded(item, tensors) for item in value))
        case torch.device() | torch.layout() | torch.memory_format():
            raise Unsupported(f"a plugin cannot keep an argument of {type(value).__name__}")
    return value
