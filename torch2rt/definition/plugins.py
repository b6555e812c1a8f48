"""Plugins in a written network."""

from __future__ import annotations

from torch2rt.definition.base import Base, Value
from torch2rt.extension.bound import bound_kind
from torch2rt.extension.full import ClassDefinition, Plugin, state_of
from torch2rt.extension.registry import PluginCall, required
from torch2rt.network.tensor import Tensor


class PluginLayers(Base):
    """Layers of the user's own."""

    def add_plugin(
        self, plugin: Plugin, *inputs: Value, name: str | None = None
    ) -> tuple[Tensor, ...]:
        """The outputs of an object of a registered `torch2rt.Plugin` class."""
        definition = required(plugin.name, plugin.version, type(plugin).__module__)
        assert isinstance(definition, ClassDefinition)
        tensors = [self.add_constant(value) for value in inputs]
        types = [tensor.type for tensor in tensors]
        kind = bound_kind(
            definition, PluginCall((), state_of(plugin)), types, plugin.output_types(types)
        )
        title = name or plugin.name.partition("::")[2]
        return self.add_layer(kind, *tensors, name=title).outputs
