"""Modules of plugin classes are kept whole: before a model is traced, they become operators."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from torch2rt.extension.module import ModuleDefinition, replace_forward
from torch2rt.extension.registry import definitions


def keep_plugins(model: nn.Module) -> None:
    """Replace ``forward`` of the outermost modules of registered classes, in place.

    PluginError where a module cannot be made again from its configuration.
    """
    classes = {
        definition.cls: definition for definition in definitions()
        if isinstance(definition, ModuleDefinition)
    }
    if not classes:
        return
    for path, module in list(_outermost(model, tuple(classes), "")):
        replace_forward(module, classes[type(module)], path)


def _outermost(
    module: nn.Module, classes: tuple[type[nn.Module], ...], path: str
) -> Iterator[tuple[str, nn.Module]]:
    """Modules of exactly these classes: a subclass may do anything else."""
    if type(module) in classes:
        yield path, module
        return
    for name, child in module.named_children():
        yield from _outermost(child, classes, f"{path}.{name}".lstrip("."))
