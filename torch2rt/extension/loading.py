"""Plugins of an engine that is loaded: those the caller names, and whether all are there."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Sequence
from types import ModuleType

from torch2rt.engine.plan import Plan
from torch2rt.errors import ConfigError
from torch2rt.extension.registry import definitions, register, registered, required
from torch2rt.layers.plugin import Plugin
from torch2rt.network.layer import Layer

# Libraries in names of tactics that run Python of the plugin's package.
_PYTHON = ("python", "torch")


def use_plugins(plugins: Iterable[object]) -> None:
    """Register what the caller names: classes, decorated functions, modules or their names.

    One name may stand alone.

    Names are imported, at the caller's wish; an engine file has no say in it.
    """
    for item in [plugins] if isinstance(plugins, str) else plugins:
        if isinstance(item, str):
            _import(item)
        elif inspect.isclass(item):
            if not any(definition.is_of(item) for definition in definitions()):
                from torch2rt.plugin import plugin

                plugin(item)
        elif callable(item):
            _use_function(item)
        elif not isinstance(item, ModuleType):
            raise ConfigError(
                option="plugins", value=item, reason="no plugin",
                remedy="Pass classes, decorated functions, or modules (or their names) that "
                "register plugins when imported.",
            )


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            option="plugins", value=name, reason=f"there is no module {error.name!r}",
            remedy="Install the package, or add its folder to PYTHONPATH.",
        ) from error


def _use_function(function: object) -> None:
    from torch2rt.extension.function import PluginFunction
    from torch2rt.extension.lowering import add_rule

    if isinstance(function, PluginFunction):
        register(function.definition)
        add_rule(function.definition)


def check_registered(layers: Sequence[Layer], plans: Sequence[Plan], backend: str) -> None:
    """PluginMissingError where a plan runs Python of a plugin that is not registered.

    Without a plan, where no kernel of the file can run the plugin on this backend.
    """
    kinds = {layer.name: layer.kind for layer in layers if isinstance(layer.kind, Plugin)}
    if plans:
        needed = {
            step.layer for plan in plans for step in plan.steps
            if step.layer in kinds and step.tactic.split(".")[1] in _PYTHON
        }
    else:
        needed = {name for name, kind in kinds.items() if backend != "cuda" or not kind.cuda}
    for name in sorted(needed):
        kind = kinds[name]
        required(kind.plugin, kind.version, kind.package)


def lacks_source(plan: Plan, layers: Sequence[Layer]) -> bool:
    """Whether a plan of another machine has a Triton kernel whose text nobody here vouches for."""
    kinds = {layer.name: layer.kind for layer in layers}
    for step in plan.steps:
        kind = kinds.get(step.layer)
        if isinstance(kind, Plugin) and step.tactic.startswith("plugin.triton."):
            if registered(kind.plugin) is None:
                return True
    return False
