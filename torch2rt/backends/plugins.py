"""What tactics of plugins share: the layer's kind, and which dtypes a plugin takes."""

from __future__ import annotations

import abc
import threading
import weakref
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Call, Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.errors import PluginError, PluginMissingError
from torch2rt.extension.full import MOST_TACTICS, ClassDefinition
from torch2rt.extension.full import Plugin as FullPlugin
from torch2rt.extension.registry import PluginCall
from torch2rt.extension.user_code import call_user, described
from torch2rt.layers.plugin import Plugin

# Kinds of layers that are plugins.
PLUGIN_KINDS = ("plugin", "plugin_with_epilogue")
# The tactics that a `torch2rt.Plugin` may have.
_ORDINALS = ("first", "second", "third")

def plugin_of(spec: LayerSpec) -> Plugin:
    """The kind of a plugin's layer. TypeError for another."""
    if not isinstance(spec.kind, Plugin):
        raise TypeError(f"{spec.name}: {spec.kind.name} is no plugin")
    return spec.kind


def dtype_refusal(spec: LayerSpec) -> Refusal | None:
    """A refusal where an operand has a float dtype that the plugin does not name."""
    kind = plugin_of(spec)
    for operand in (*spec.inputs[: spec.main_count], *spec.outputs):
        if operand.dtype.is_float and not kind.computes_in(operand.dtype):
            names = ", ".join(dtype.value for dtype in kind.precisions)
            return Refusal(f"{kind.plugin} is declared for {names}, not {operand.dtype.value}")
    return None


def attributes_of(spec: LayerSpec) -> dict[str, Any]:
    """What functions of arrays are told: the call's attributes, and scales of 8-bit inputs."""
    kind = plugin_of(spec)
    found = dict(kind.definition().attributes(PluginCall(kind.arguments, kind.state)))
    if kind.scales:
        found["scales"] = kind.scales
    return found


def instance_of(spec: LayerSpec) -> FullPlugin:
    """A copy of the `torch2rt.Plugin` object that the layer stands for.

    PluginMissingError where its class is not registered; Unprepared where it is another thing.
    """
    kind = plugin_of(spec)
    definition = kind.definition()
    if not isinstance(definition, ClassDefinition):
        raise Unprepared(f"{kind.plugin} is registered, but not as a torch2rt.Plugin")
    return definition.make(PluginCall(kind.arguments, kind.state))


class Enqueue(Tactic):
    """``enqueue`` of a `torch2rt.Plugin`, by tactic ``index`` of its class."""

    kinds: ClassVar[tuple[str, ...]] = PLUGIN_KINDS
    index: ClassVar[int]
    device: ClassVar[str]

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """What the object says."""
        kind = plugin_of(spec)
        if "enqueue" not in kind.host:
            return Refusal("the plugin has no enqueue")
        if spec.epilogue is not None:
            return Refusal("an epilogue")
        try:
            plugin = instance_of(spec)
        except PluginMissingError as error:
            return Refusal(str(error))
        if self.index >= len(plugin.tactics):
            return Refusal(f"the plugin has {len(plugin.tactics)} tactics")
        reason = call_user(
            kind.plugin, "supports", plugin.supports, spec.inputs, spec.outputs, self.device
        )
        return Refusal(str(reason)) if reason is not None else None

    def layouts(self, spec: LayerSpec) -> list[LayoutChoice]:
        """What the object says."""
        plugin = instance_of(spec)
        found = call_user(
            plugin.name, "formats", plugin.formats, spec.inputs, spec.outputs, self.device
        )
        try:
            choices = [
                LayoutChoice(tuple(map(Layout, inputs)), tuple(map(Layout, outputs)))
                for inputs, outputs in found
            ]
        except (TypeError, ValueError) as error:
            raise _wrong_formats(plugin.name, found) from error
        counts = (len(spec.inputs), len(spec.outputs))
        if any((len(choice.inputs), len(choice.outputs)) != counts for choice in choices):
            raise _wrong_formats(plugin.name, found)
        return choices

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """An object configured for these operands."""
        plugin = instance_of(spec)
        plugin.input_scales = plugin_of(spec).scales
        tactic = plugin.tactics[self.index]
        call_user(
            plugin.name, "configure", plugin.configure, spec.inputs, spec.outputs, self.device,
            tactic,
        )
        size = call_user(
            plugin.name, "workspace_bytes", plugin.workspace_bytes, spec.inputs, spec.outputs
        )
        if not isinstance(size, Integral) or size < 0:
            raise PluginError(
                name=plugin.name, where="", reason=f"workspace_bytes gave {size!r}",
                remedy="Return how many bytes a run needs",
            )
        return Living(self.bound_to(plugin, spec, weights, int(size)), plugin)

    @abc.abstractmethod
    def bound_to(
        self, plugin: FullPlugin, spec: LayerSpec, weights: Weights, workspace_bytes: int
    ) -> Prepared:
        """Code that calls ``enqueue``."""


def _wrong_formats(name: str, found: object) -> PluginError:
    return PluginError(
        name=name, where="", reason=f"formats gave {described(found)}",
        remedy='Return pairs of lists, for inputs and outputs, of "plain" and "channels_last": one '
        "layout per tensor",
    )


def enqueue_tactics(base: type[Enqueue]) -> dict[str, type[Enqueue]]:
    """A subclass of a backend's `Enqueue` per tactic that a plugin may have, by class name."""
    return {
        f"Enqueue{word.capitalize()}": type(f"Enqueue{word.capitalize()}", (base,), {
            "__module__": base.__module__, "__doc__": f"The {word} tactic of a plugin.",
            "name": f"plugin.python.{word}", "index": index,
        })
        for index, word in zip(range(MOST_TACTICS), _ORDINALS, strict=True)
    }


class Living(Prepared):
    """Code whose plugin is initialised before it is first bound, and terminated with it."""

    def __init__(self, inner: Prepared, plugin: FullPlugin) -> None:
        self.inner = inner
        self.plugin = plugin
        self.workspace_bytes = inner.workspace_bytes
        self._lock = threading.Lock()
        self._is_initialized = False

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """The calls of the code."""
        with self._lock:
            if not self._is_initialized:
                call_user(self.plugin.name, "initialize", self.plugin.initialize)
                self._is_initialized = True
                weakref.finalize(self, self.plugin.terminate)
        return self.inner.bind(inputs, outputs, workspace, stream)
