"""Launches of our Triton kernels: epilogue operands, tiles shared by blocks, who may overwrite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.device import Device, current_device
from torch2rt.backends.cuda.launch import KernelPrepared, Launch, Packed, Work
from torch2rt.backends.cuda.triton.kernel import TritonKernel
from torch2rt.backends.cuda.triton.operands import (
    MAX_EXTRAS,
    TRITON_TYPES,
    Extra,
    aligned_strides,
)
from torch2rt.backends.cuda.triton.tiles import Tile
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Call, Prepared, Unprepared
from torch2rt.network.dtype import DType

MAX_BLOCKS = 65535
_REGISTERS = 65536  # of a multiprocessor; threads with 32 each fill it, 2048 in all
# The place of counters among a launch's arguments.
COUNTERS = Work(-1)


def extra_kinds(extras: Sequence[Extra], matrix: str) -> tuple[str, ...]:
    """Kinds of the operands as kernels name them; ``matrix`` is how this one reads a matrix."""
    kinds = [matrix if extra.kind == "matrix" else extra.kind for extra in extras]
    return (*kinds, *["none"] * (MAX_EXTRAS - len(kinds)))


def extra_types(
    extras: Sequence[Extra], kinds: Sequence[str], box: str
) -> list[tuple[str, str]]:
    """Parameters e1, e2, e3 of a kernel and their types."""
    types = []
    for i, kind in enumerate(kinds):
        element = TRITON_TYPES[extras[i].dtype] if i < len(extras) else ""
        text = f"tensordesc<{element}[{box}]>" if kind == "map" else f"*{element}"
        types.append((f"e{i + 1}", "constexpr" if kind == "none" else text))
    return types


def part_types(tile: Tile, dtype: DType) -> list[tuple[str, str]]:
    """Parameters of the memory through which blocks that share a tile meet, by factors' dtype."""
    if tile.parts == 1:
        return [("partial", "constexpr"), ("counters", "constexpr")]
    return [("partial", "*fp32" if dtype.is_float else "*i32"), ("counters", "*i32")]


def part_arguments(tile: Tile) -> list[Any]:
    """Their values; `PartsPrepared` puts counters in the place of `COUNTERS`."""
    return [] if tile.parts == 1 else [Work(0), COUNTERS]


def part_bytes(tile: Tile, tiles: int) -> int:
    """Workspace of the sums of parts."""
    return 4 * tile.m * tile.n * tiles * tile.parts if tile.parts > 1 else 0


def resident_blocks(kernel: TritonKernel, device: Device) -> int:
    """Blocks of a kernel that one multiprocessor holds, by memory, threads and registers."""
    by_memory = (device.shared_bytes + 1024) // (kernel.shared_bytes + 1024)
    registers = kernel.kernel.registers + -kernel.kernel.registers % 8
    by_registers = _REGISTERS // (max(registers, 32) * 32 * kernel.warps)
    return max(1, min(by_memory, by_registers, 8))


def overwritable(spec: LayerSpec, extras: Sequence[Extra]) -> tuple[int, ...]:
    """Epilogue operands whose memory the output may take: each tile reads its own part first."""
    target = spec.outputs[0]
    return tuple(
        extra.index for extra in extras
        if extra.kind == "matrix" and spec.constants[extra.index] is None
        and _same_memory(spec.inputs[extra.index], target)
    )


def _same_memory(one: TensorSpec, other: TensorSpec) -> bool:
    return (
        math.prod(one.shape) == math.prod(other.shape) and one.dtype == other.dtype
        and aligned_strides(one, other.shape) == aligned_strides(other, other.shape)
    )


class PartsPrepared(KernelPrepared):
    """A launch whose blocks count, per tile, how many of them have arrived.

    Counters start at zero and are left at zero, so each binding has its own.
    """

    def __init__(
        self, launch: Launch, tiles: int, *, workspace_bytes: int, may_overwrite: tuple[int, ...]
    ) -> None:
        super().__init__(
            [launch], workspace_bytes=workspace_bytes, may_overwrite=may_overwrite
        )
        self._tiles = tiles
        self._device = current_device()

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call, with counters of its own."""
        counters = Packed(self._device.upload(np.zeros(self._tiles, np.int32)))
        (launch,) = self.launches
        arguments = [counters if a is COUNTERS else a for a in launch.arguments]
        own = KernelPrepared([replace(launch, arguments=arguments)])
        return own.bind(inputs, outputs, workspace, stream)


def finish(
    spec: LayerSpec, kernel: TritonKernel, tile: Tile, arguments: Sequence[Any],
    numbers: Sequence[Any], tiles: int, batch: int, extras: Sequence[Extra], *, is_persistent: bool,
) -> Prepared:
    """The prepared launch of a kernel over ``tiles`` tiles, ``batch`` times."""
    device = current_device()
    if batch > MAX_BLOCKS:
        raise Unprepared(f"{batch} products at once; a launch takes at most {MAX_BLOCKS}")
    blocks = tiles
    if is_persistent:
        blocks = min(tiles, device.multiprocessors * resident_blocks(kernel, device))
    launch = kernel.launch(
        (blocks, tile.parts, batch), [*arguments, *part_arguments(tile), *numbers],
        device.capability >= (9, 0),
    )
    may_overwrite = overwritable(spec, extras)
    if tile.parts == 1:
        return KernelPrepared([launch], may_overwrite=may_overwrite)
    return PartsPrepared(
        launch, tiles * batch, workspace_bytes=part_bytes(tile, tiles * batch),
        may_overwrite=may_overwrite,
    )
