"""Plugins by the user's Triton kernels. The engine keeps their machine code."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import Any, ClassVar

from torch2rt.backends.cuda.launch import F32, I32, I64, Argument, KernelPrepared, Launch
from torch2rt.backends.cuda.plugin_arguments import launch_arguments, launch_size
from torch2rt.backends.cuda.triton.kernel import Program, triton_kernel
from torch2rt.backends.cuda.triton.operands import TRITON_TYPES
from torch2rt.backends.plugins import PLUGIN_KINDS, dtype_refusal, plugin_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.extension.registry import registered
from torch2rt.extension.triton_source import source_text
from torch2rt.layers.plugin import Plugin
from torch2rt.network.dtype import DType

_TYPES = {**TRITON_TYPES, DType.INT64: "i64", DType.FLOAT64: "fp64", DType.UINT8: "u8",
          DType.INT16: "i16", DType.BOOL: "i1"}


class _Way(Tactic):
    """Way ``index`` of those a plugin gives: its launches one after the other, row-major."""

    kinds: ClassVar[tuple[str, ...]] = PLUGIN_KINDS
    index: ClassVar[int]

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Plugins that have such a way, in dtypes that they name."""
        if len(plugin_of(spec).triton) <= self.index:
            return Refusal(f"the plugin has {len(plugin_of(spec).triton)} ways in Triton")
        if spec.epilogue is not None or plugin_of(spec).scales:
            return Refusal("an epilogue, or operands in 8 bits")
        return dtype_refusal(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """The kernels, compiled once. Unprepared where that needs the plugin's package."""
        kind = plugin_of(spec)
        launches = [_launch(spec, weights, row) for row in kind.triton[self.index]]
        return KernelPrepared(
            [launch for launch in launches if 0 not in launch.grid],
            workspace_bytes=launch_size(kind.workspace),
        )


@dataclass(frozen=True)
class RefusedJob:
    """Stands for compiling text of an engine file that nobody here vouches for.

    Triton source is Python that compiling runs.
    """

    plugin: str
    package: str

    def run(self) -> bytes:
        """Always Unprepared."""
        raise Unprepared(
            f"the Triton kernel of {self.plugin} must be compiled for this GPU, and Triton source "
            f"of an engine file is not run: import {self.package} first"
        )


def _launch(spec: LayerSpec, weights: Weights, row: tuple[Any, ...]) -> Launch:
    *_, grid, numbers, _ = row
    arguments = launch_arguments(spec, weights, numbers)
    program = plugin_program(spec, row, arguments)
    kind = plugin_of(spec)
    job = None if _is_vouched_for(kind, program) else RefusedJob(kind.plugin, kind.package)
    kernel = triton_kernel(weights, program, job)
    x, y, z = (launch_size(size) for size in grid)
    return kernel.launch((x, y, z), arguments, overlaps=False)


def plugin_program(
    spec: LayerSpec, row: tuple[Any, ...], arguments: list[Argument]
) -> Program:
    """The program of a launch for operands of these types. Unprepared where they do not fit."""
    source, entry, names, constants, warps, stages, *_ = row
    operands = (*spec.inputs[: spec.main_count], *spec.outputs)
    unknown = [operand.dtype.value for operand in operands if operand.dtype not in _TYPES]
    if unknown:
        raise Unprepared(f"Triton has no {unknown[0]}")
    kinds = [f"*{_TYPES[operand.dtype]}" for operand in operands]
    kinds += [_kind(argument) for argument in arguments[len(kinds) :]]
    free = [name for name in names if name not in dict(constants)]
    if len(free) != len(kinds):
        raise Unprepared(
            f"{entry} takes {len(free)} parameters ({', '.join(free)}) beside its constants and "
            f"is given {len(kinds)}: inputs, outputs, workspace, numbers"
        )
    types = dict(zip(free, kinds, strict=True))
    return Program(
        entry, source, tuple((name, types.get(name, "constexpr")) for name in names),
        tuple(constants), tuple((name, 16) for name in free if types[name].startswith("*")),
        warps, stages,
    )


def _kind(argument: Argument) -> str:
    if isinstance(argument, F32):
        return "fp32"
    if isinstance(argument, I32):
        return "i32"
    return "i64" if isinstance(argument, I64) else "*u8"


def _is_vouched_for(kind: Plugin, program: Program) -> bool:
    """Whether the registered plugin, and so code that the user imported, has this very text."""
    definition = registered(kind.plugin)
    if definition is None or not program.name.isidentifier() or keyword.iskeyword(program.name):
        return False
    ways = definition.implementations.triton
    return (program.source, program.name) in {
        source_text(launch.function) for way in ways for launch in way
    }


class PluginTritonFirst(_Way):
    """The first way."""

    name: ClassVar[str] = "plugin.triton.first"
    index: ClassVar[int] = 0


class PluginTritonSecond(_Way):
    """The second way."""

    name: ClassVar[str] = "plugin.triton.second"
    index: ClassVar[int] = 1
