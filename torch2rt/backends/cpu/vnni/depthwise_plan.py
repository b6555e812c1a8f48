"""Which depthwise convolutions of bytes are taken, and how one is laid out, prepared and bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.backends.buffer import Buffer, address_of, aligned_bytes
from torch2rt.backends.cpu.jit import JitUnavailable, jit_unavailable
from torch2rt.backends.cpu.jit.compiler import has_byte_products
from torch2rt.backends.cpu.jit.parallel import ParallelCall, address_of_function, follow
from torch2rt.backends.cpu.onednn.openmp import get_threads, openmp
from torch2rt.backends.cpu.vnni.depthwise import (
    GROUP,
    LANES,
    OUTSIDE,
    VECTORS,
    DepthwiseField,
    DepthwiseTile,
    driver_kernel,
    tile_kernel,
)
from torch2rt.backends.cpu.vnni.epilogue import (
    PANEL,
    epilogue_of,
    interleaved,
    refusal_reason,
)
from torch2rt.backends.cpu.vnni.table import bound_table
from torch2rt.backends.cpu.vnni.tile import geometry, grid_columns
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Call, Prepared, Refusal, Unprepared, Weights
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import Array, DType

# Pixels of a tile at most: with their sums four registers of a column fit.
_PIXELS = 6
# The whole window is written out in a tile's function.
_MAX_TAPS = 49


def refusal(spec: LayerSpec) -> Refusal | None:
    """Why a layer is not taken, or None."""
    kind = spec.kind
    if not isinstance(kind, Convolution):
        return Refusal(f"{kind.name} is not a convolution")
    x, weight = spec.inputs[:2]
    if (x.dtype, weight.dtype) != (DType.UINT8, DType.INT8):
        return Refusal("the products are of unsigned by signed bytes")
    if x.rank != 4 or not kind.groups == x.shape[1] == weight.shape[0]:
        return Refusal("the kernel is written for images and a group per channel")
    if spec.constants[1] is None:
        return Refusal("the weights are no constant")
    if x.shape[1] < PANEL:
        return Refusal(f"less than {PANEL} channels")
    if weight.shape[2] * weight.shape[3] > _MAX_TAPS:
        return Refusal(f"a window of more than {_MAX_TAPS} pixels")
    if min(spec.outputs[0].shape) == 0:
        return Refusal("the output is empty")
    reason = jit_unavailable() or _products_unavailable() or refusal_reason(spec)
    if reason is None and not epilogue_of(spec)[0].is_interleaved(VECTORS):
        reason = "the kernel stores bytes, and adds bytes"
    return Refusal(reason) if reason is not None else None


def _products_unavailable() -> str | None:
    return None if has_byte_products() else "the CPU has no AVX512_VNNI"


def prepare(spec: LayerSpec, weights: Weights) -> Prepared:
    """Compile what is not compiled yet, pack the weights."""
    # A saved plan may come from another CPU, and a file may claim anything.
    refused = refusal(spec)
    if refused is not None:
        raise Unprepared(refused.reason)
    try:
        return _Planner(spec).prepared(weights)
    except JitUnavailable as error:
        raise Unprepared(str(error)) from error


class _Planner:
    def __init__(self, spec: LayerSpec) -> None:
        if not isinstance(spec.kind, Convolution):
            raise Unprepared(f"{spec.kind.name} is not a convolution")
        self.spec = spec
        self.shape = geometry(
            spec.kind, spec.inputs[0].shape, spec.outputs[0].shape, spec.inputs[1].shape
        )
        self.epilogue, self.literals = epilogue_of(spec)
        self.threads = get_threads()
        self.starts = panel_starts(self.shape.channels)

    def prepared(self, weights: Weights) -> DepthwisePrepared:
        """All of it."""
        spec, shape = self.spec, self.shape
        packed = self._packed(weights)
        entries = self._entries()
        zeros = aligned_bytes(PANEL + shape.channels * (
            (_PIXELS - 1) * shape.stride[1] + (shape.window[1] - 1) * shape.dilation[1] + 1
        ))
        further = range(spec.main_count, len(spec.inputs))
        operands = [self._constant(weights, index) for index in further]
        literals = [np.array(self.literals, np.float32)] if self.literals else []
        numbers = self._numbers(len(entries), packed.size // len(self.starts))
        for field, array in (
            (DepthwiseField.weights, packed), (DepthwiseField.tiles, entries),
            (DepthwiseField.zeros, zeros),
        ):
            numbers[field] = address_of(array)
        return DepthwisePrepared(
            numbers, driver_kernel(), self.threads, operands, literals, (packed, entries, zeros)
        )

    def _packed(self, weights: Weights) -> Array:
        """Weights [k, 1, r, s] as [panels, s, r / 4, 4, 16, 4], rows padded with zeros."""
        name = self.spec.constants[1]
        assert name is not None
        k, (rows, taps) = self.shape.channels, self.shape.window

        def make() -> Array:
            values = weights.array(name).reshape(k, rows, taps)
            values = np.pad(values, [(0, 0), (0, -rows % GROUP), (0, 0)])
            panels = interleaved(np.concatenate([values[s : s + PANEL] for s in self.starts]))
            ordered = panels.reshape(len(self.starts), VECTORS, LANES, -1, GROUP, taps)
            ordered = ordered.transpose(0, 5, 3, 1, 2, 4)
            target: Array = aligned_bytes(ordered.size).view(np.int8)
            target[:] = ordered.reshape(-1)
            return target

        packed: Array = weights.packed((name, "vnni depthwise"), make)
        return packed

    def _constant(self, weights: Weights, index: int) -> Array | None:
        """The numbers of a constant input panel by panel, None for one with a buffer."""
        name = self.spec.constants[index]
        if name is None:
            return None

        def make() -> Array:
            values = weights.array(name).reshape(-1)
            if values.size > 1:
                values = interleaved(np.concatenate([values[s : s + PANEL] for s in self.starts]))
            target: Array = aligned_bytes(values.nbytes).view(np.float32)
            target[:] = values
            return target

        packed: Array = weights.packed((name, "vnni depthwise operand"), make)
        return packed

    def _entries(self) -> Array:
        """The tiles of an image: the kernel, the first pixel, and where the rows start."""
        shape = self.shape
        parts = -(-shape.out_width // _PIXELS)
        edges = [part * shape.out_width // parts for part in range(parts + 1)]
        kernels = [
            tile_kernel(self._tile(*edges[part : part + 2])) for part in range(parts)
        ]
        entries = np.zeros((shape.out_height * parts, 2 + shape.window[0]), np.int64)
        for number, entry in enumerate(entries):
            y, part = divmod(number, parts)
            entry[0] = kernels[part]
            entry[1] = y * shape.out_width + edges[part]
            column = edges[part] * shape.stride[1] - shape.padding[1]
            for tap in range(shape.window[0]):
                row = y * shape.stride[0] - shape.padding[0] + tap * shape.dilation[0]
                # A row may start before the image and be read from its first pixel on.
                offset = (row * shape.width + column) * shape.channels
                entry[2 + tap] = offset if 0 <= row < shape.height else OUTSIDE
        return entries

    def _tile(self, start: int, end: int) -> DepthwiseTile:
        shape = self.shape
        column = start * shape.stride[1] - shape.padding[1]
        reach = (end - start - 1) * shape.stride[1] + (shape.window[1] - 1) * shape.dilation[1] + 1
        return DepthwiseTile(
            end - start, shape.channels, *shape.window, shape.stride[1], shape.dilation[1],
            min(max(-column, 0), reach), max(min(shape.width - column, reach), 0), self.epilogue,
        )

    def _numbers(self, tile_count: int, panel_bytes: int) -> Array:
        """The numbers but for addresses of memory."""
        shape, gomp = self.shape, openmp()
        images = self.spec.inputs[0].shape[0]
        fields = {
            DepthwiseField.tile_numbers: 2 + shape.window[0],
            DepthwiseField.tile_count: tile_count, DepthwiseField.images: images,
            DepthwiseField.image_bytes: shape.height * shape.width * shape.channels,
            DepthwiseField.out_pixels: shape.out_height * shape.out_width,
            DepthwiseField.channels: shape.channels, DepthwiseField.panels: len(self.starts),
            DepthwiseField.panel_bytes: panel_bytes,
            DepthwiseField.columns: grid_columns(
                len(self.starts), images * tile_count, self.threads
            ),
            DepthwiseField.thread_number: address_of_function(gomp.omp_get_thread_num),
            DepthwiseField.thread_count: address_of_function(gomp.omp_get_num_threads),
        }
        numbers: Array = np.zeros(len(DepthwiseField), np.int64)
        for field, value in fields.items():
            numbers[field] = value
        return numbers


def panel_starts(channels: int) -> list[int]:
    """The first channels of panels; the last one may overlap the one before."""
    return [*range(0, channels - PANEL, PANEL), channels - PANEL]


@dataclass
class DepthwisePrepared(Prepared):
    """One parallel region: ``driver`` run by ``threads`` threads on a copy of ``numbers``.

    ``operands`` are the epilogue's constants, ``behind`` what follows them in the table; ``keep``
    is memory that the numbers point to.
    """

    numbers: Array
    driver: int
    threads: int
    operands: Sequence[Array | None]
    behind: Sequence[Array]
    keep: Sequence[Array]

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call."""
        numbers = self.numbers.copy()
        table = bound_table(self.operands, self.behind, inputs, outputs)
        numbers[DepthwiseField.table] = address_of(table)
        follow(inputs[0], numbers, DepthwiseField.source)
        return [(ParallelCall(self.driver, self.threads, numbers, (self, table)), ())]
