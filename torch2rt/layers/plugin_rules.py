"""The converter rule of the operator that stands for modules and `torch2rt.Plugin` objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch2rt.extension.registry import PluginCall, registered
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering


@rule("torch2rt.plugin.default")
def lower_plugin(
    lowering: Lowering, tensors: list[Tensor], name: str, state: str
) -> list[Tensor]:
    """One layer."""
    from torch2rt.extension.lowering import lower_call

    definition = registered(name)
    if definition is None:
        raise Unsupported(f"plugin {name} is not registered")
    outputs = lower_call(lowering, definition, PluginCall((), state), tensors)
    return outputs if isinstance(outputs, list) else [outputs]
