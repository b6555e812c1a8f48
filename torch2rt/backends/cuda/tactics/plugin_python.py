"""Plugins by the user's Python: a function of CuPy arrays, or `Plugin.enqueue`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch2rt.backends.cuda.plugin_arguments import launch_size
from torch2rt.backends.cuda.plugin_calls import ArraysPrepared
from torch2rt.backends.plugins import (
    PLUGIN_KINDS,
    Enqueue,
    attributes_of,
    dtype_refusal,
    enqueue_tactics,
    plugin_of,
)
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.extension.full import Plugin
from torch2rt.extension.user_code import call_user


class PluginCupy(Tactic):
    """``cupy(inputs, outputs, attributes)`` on the buffers themselves, row-major."""

    name: ClassVar[str] = "plugin.python.cupy"
    kinds: ClassVar[tuple[str, ...]] = PLUGIN_KINDS

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Plugins that declare such a function, in dtypes that they name."""
        if "cupy" not in plugin_of(spec).host:
            return Refusal("the plugin has no function of CuPy arrays")
        return Refusal("an epilogue") if spec.epilogue is not None else dtype_refusal(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One call. PluginMissingError where the plugin is not registered."""
        kind = plugin_of(spec)
        definition = kind.definition()
        function = definition.implementations.cupy
        if function is None:
            raise Unprepared(f"{kind.plugin} is registered without its function of CuPy arrays")
        attributes = attributes_of(spec)
        run = partial(_run, kind.plugin, function, attributes)
        return ArraysPrepared(
            run, spec, weights, launch_size(kind.workspace), "capturable" in kind.host
        )


def _run(
    name: str, function: Callable[..., Any], attributes: Mapping[str, Any],
    inputs: Sequence[Any], outputs: Sequence[Any], workspace: Any, stream: Any,
) -> None:
    call_user(name, "its cupy function", function, inputs, outputs, attributes)


class _Enqueue(Enqueue):
    device: ClassVar[str] = "cuda"

    def bound_to(
        self, plugin: Plugin, spec: LayerSpec, weights: Weights, workspace_bytes: int
    ) -> Prepared:
        """One call on arrays."""
        return ArraysPrepared(
            partial(call_user, plugin.name, "enqueue", plugin.enqueue), spec, weights,
            workspace_bytes, plugin.capturable,
        )


globals().update(enqueue_tactics(_Enqueue))
