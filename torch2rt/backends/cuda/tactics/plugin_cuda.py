"""Plugins by the user's kernels in CUDA C++, which travel with the engine."""

from __future__ import annotations

from typing import Any, ClassVar

from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.plugin_source import epilogue_refusal, plugin_source
from torch2rt.backends.cuda.device import Kernel, current_device
from torch2rt.backends.cuda.launch import KernelPrepared, Launch
from torch2rt.backends.cuda.plugin_arguments import launch_arguments, launch_size
from torch2rt.backends.plugins import PLUGIN_KINDS, dtype_refusal, plugin_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.errors import PluginError


class _Way(Tactic):
    """Way ``index`` of those a plugin gives: its launches one after the other, row-major."""

    kinds: ClassVar[tuple[str, ...]] = PLUGIN_KINDS
    index: ClassVar[int]

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Plugins that have such a way, in dtypes that they name."""
        if len(plugin_of(spec).cuda) <= self.index:
            return Refusal(f"the plugin has {len(plugin_of(spec).cuda)} ways in CUDA C++")
        return dtype_refusal(spec) or epilogue_refusal(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """The kernels, compiled once."""
        kind = plugin_of(spec)
        launches = [_launch(spec, weights, row) for row in kind.cuda[self.index]]
        return KernelPrepared(
            [launch for launch in launches if 0 not in launch.grid],
            workspace_bytes=launch_size(kind.workspace),
        )


def _launch(spec: LayerSpec, weights: Weights, row: tuple[Any, ...]) -> Launch:
    source, entry, grid, block, shared_bytes, numbers = row
    available = current_device().shared_bytes
    if launch_size(shared_bytes) > available:
        raise Unprepared(f"{entry} wants {shared_bytes} bytes of shared memory of {available}")
    kernel = _compiled(spec, weights, entry, source, shared_bytes)
    return Launch(
        kernel, _three(grid), _three(block), launch_arguments(spec, weights, numbers),
        shared_bytes,
    )


def _compiled(
    spec: LayerSpec, weights: Weights, entry: str, source: str, shared_bytes: int
) -> Kernel:
    """The kernel. PluginError where the compiler refuses the user's text."""
    try:
        return cpp_kernel(weights, entry, plugin_source(spec, source), shared_bytes)
    except Unprepared as error:
        reason = str(error)
        if "does not compile" not in reason:
            raise
        raise PluginError(
            name=plugin_of(spec).plugin, where=f", layer {spec.name} ({spec.where})",
            reason=f"its kernel {reason}", remedy='Lines are those of "plugin", its source',
        ) from error


def _three(sizes: tuple[Any, ...]) -> tuple[int, int, int]:
    x, y, z = (launch_size(size) for size in sizes)
    return x, y, z


class PluginCudaFirst(_Way):
    """The first way."""

    name: ClassVar[str] = "plugin.cuda.first"
    index: ClassVar[int] = 0


class PluginCudaSecond(_Way):
    """The second way."""

    name: ClassVar[str] = "plugin.cuda.second"
    index: ClassVar[int] = 1


class PluginCudaThird(_Way):
    """The third way."""

    name: ClassVar[str] = "plugin.cuda.third"
    index: ClassVar[int] = 2


class PluginCudaFourth(_Way):
    """The fourth way."""

    name: ClassVar[str] = "plugin.cuda.fourth"
    index: ClassVar[int] = 3
