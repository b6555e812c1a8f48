"""Which convolutions of bytes are taken, and how one is laid out, prepared and bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.backends.buffer import Buffer, address_of
from torch2rt.backends.cpu.epilogue import choice
from torch2rt.backends.cpu.jit import JitUnavailable, jit_unavailable
from torch2rt.backends.cpu.jit.compiler import has_byte_products
from torch2rt.backends.cpu.jit.parallel import ParallelCall, address_of_function, follow
from torch2rt.backends.cpu.onednn.openmp import get_threads, openmp
from torch2rt.backends.cpu.vnni.copy import LANES as COPY_LANES
from torch2rt.backends.cpu.vnni.copy import (
    SLACK_BYTES,
    copied,
    copy_fields,
    copy_kernel,
    has_flat_rows,
    is_copied,
)
from torch2rt.backends.cpu.vnni.driver import driver_kernel
from torch2rt.backends.cpu.vnni.epilogue import epilogue_of, refusal_reason
from torch2rt.backends.cpu.vnni.field import Entry, Field
from torch2rt.backends.cpu.vnni.kernel import LANES, TileKernel, tile_kernel
from torch2rt.backends.cpu.vnni.table import bound_table
from torch2rt.backends.cpu.vnni.tile import Geometry, Span, Tile, geometry, grid_columns, tiles
from torch2rt.backends.cpu.vnni.weights import constant_operand, packed_weights, start_of_sums
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Call, Prepared, Refusal, Unprepared, Weights
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import Array, DType

# Times the size of the image that weights are large (measured: 1 is slower by 3 %, 60 no faster).
_LARGE = 16
# Of images that are covered as one.
_MAX_PIXELS = 4096
# More lines than these in a round of a loop wait for one another.
_MAX_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Block:
    """The sums of a tile: at most so many pixels by so many registers of output channels."""

    pixels: int
    vectors: int


def refusal(spec: LayerSpec) -> Refusal | None:
    """Why a layer is not taken, or None."""
    kind = spec.kind
    if not isinstance(kind, Convolution):
        return Refusal(f"{kind.name} is not a convolution")
    x, weight = spec.inputs[:2]
    if x.dtype not in EIGHT_BITS or weight.dtype is not DType.INT8:
        return Refusal("the products are of bytes by signed bytes")
    if x.rank != 4 or kind.groups != 1:
        return Refusal("the kernel is written for images and one group")
    if spec.constants[1] is None:
        return Refusal("the weights are no constant")
    if weight.shape[0] % LANES:
        return Refusal(f"the output channels are no multiple of {LANES}")
    if min(spec.outputs[0].shape) == 0:
        return Refusal("the output is empty")
    reason = (_copy_reason if is_copied(spec) else _border_reason)(spec)
    reason = reason or jit_unavailable() or _products_unavailable() or refusal_reason(spec)
    return Refusal(reason) if reason is not None else None


def _border_reason(spec: LayerSpec) -> str | None:
    """Why the kernel does not do a layer's borders, or None."""
    shape = _geometry(spec)
    if any(not tile.rows or not tile.span.runs for tile in tiles(shape, shape.out_width)):
        return "some windows are outside the image"
    return None


def _copy_reason(spec: LayerSpec) -> str | None:
    """Why the input is not copied, or None."""
    shape = _geometry(spec)
    if has_flat_rows(spec) and shape.dilation[1] != 1:
        return "the channels are no multiple of 4, and the taps of a row are apart"
    if shape.width * shape.pixel_bytes < COPY_LANES:
        return f"rows of less than {COPY_LANES} bytes are not copied"
    return None


def _products_unavailable() -> str | None:
    return None if has_byte_products() else "the CPU has no AVX512_VNNI"


def layouts(spec: LayerSpec) -> Sequence[LayoutChoice]:
    """Channels last."""
    return [choice(spec, (Layout.CHANNELS_LAST, Layout.PLAIN), Layout.CHANNELS_LAST)]


def prepare(spec: LayerSpec, weights: Weights, block: Block) -> Prepared:
    """Compile what is not compiled yet, pack the weights."""
    # A saved plan may come from another CPU, where LLVM would end the process for want of an op,
    # and a file may claim anything: kernels write as they are told.
    refused = refusal(spec)
    if refused is not None:
        raise Unprepared(refused.reason)
    try:
        return _Planner(spec, block).prepared(weights)
    except JitUnavailable as error:
        raise Unprepared(str(error)) from error


def _geometry(spec: LayerSpec) -> Geometry:
    if not isinstance(spec.kind, Convolution):
        raise Unprepared(f"{spec.kind.name} is not a convolution")
    return geometry(
        spec.kind, spec.inputs[0].shape, spec.outputs[0].shape, spec.inputs[1].shape
    )


class _Planner:
    def __init__(self, spec: LayerSpec, block: Block) -> None:
        self.spec = spec
        self.threads = get_threads()
        self.images = spec.inputs[0].shape[0]
        self.shape = _geometry(spec)
        self.workspace_bytes, self.copy = 0, {Field.has_copy: 0}
        if is_copied(spec):
            self._copy()
        if self.shape.is_product:
            # Small images together, so that tiles are whole; of large ones the list would be long.
            if self.images * self.shape.height * self.shape.width <= _MAX_PIXELS:
                self.shape, self.images = self.shape.as_row(self.images), 1
            self.shape = self.shape.as_row()
        self.vectors = min(block.vectors, self.shape.out_channels // LANES)
        self.tiles = tiles(self.shape, block.pixels)
        self.panels = -(-self.shape.out_channels // (LANES * self.vectors))
        self.columns = self._columns()
        self.ahead = self._ahead()
        self.epilogue, self.literals = epilogue_of(spec)

    def _copy(self) -> None:
        """Read a copy of the input instead of it."""
        given, spec = self.shape, self.spec
        self.shape = copied(given, has_flat_rows(spec))
        self.copy = copy_fields(given, self.shape, self.images, spec.inputs[0].dtype)
        self.copy |= {
            Field.has_copy: 1, Field.copy_kernel: copy_kernel(),
            Field.barrier: address_of_function(openmp().GOMP_barrier),
        }
        size = self.images * self.shape.height * self.shape.width * self.shape.pixel_bytes
        self.workspace_bytes = size + SLACK_BYTES

    def prepared(self, weights: Weights) -> BytesPrepared:
        """All of it."""
        spec = self.spec
        is_interleaved = self.epilogue.is_interleaved(self.vectors)
        packed = packed_weights(spec, weights, self.vectors, is_interleaved)
        entries = self._entries()
        further = range(spec.main_count, len(spec.inputs))
        operands = [constant_operand(spec, weights, index, is_interleaved) for index in further]
        literals = [np.array(self.literals, np.float32)] if self.literals else []
        start = start_of_sums(spec, weights, is_interleaved)
        behind = [*literals, start] if start is not None else literals
        numbers = self._numbers()
        numbers[Field.weights] = address_of(packed)
        numbers[Field.tiles] = address_of(entries)
        return BytesPrepared(
            numbers, driver_kernel(), self.threads, operands, behind, (packed, entries),
            workspace_bytes=self.workspace_bytes,
            may_overwrite=tuple(
                index for index, operand in zip(further, self.epilogue.operands, strict=True)
                if operand.kind == "tensor"
                and operand.dtype.itemsize_bytes == spec.outputs[0].dtype.itemsize_bytes
            ),
        )

    def _columns(self) -> int:
        """Among how many threads the panels are divided.

        Few, so that a thread finds in its cache what it wrote there; many where weights are large.
        """
        weights, image = (math.prod(tensor.shape) for tensor in (
            self.spec.inputs[1], self.spec.inputs[0]
        ))
        tile_count = self.images * len(self.tiles)
        return grid_columns(self.panels, tile_count, self.threads, weights > _LARGE * image)

    def _ahead(self) -> int:
        """Lines fetched in each round, so that the tiles of a thread fetch the next panel."""
        if self.panels == self.columns:
            return 0
        each = -(-self.images * len(self.tiles) * self.columns // self.threads)
        return min(-(-4 * self.vectors // each), _MAX_AHEAD)

    def _kernel(self, span: Span, vectors: int) -> TileKernel:
        shape = self.shape
        return TileKernel(
            pixels=span.pixels, vectors=vectors, channels=shape.channels,
            out_channels=shape.out_channels, pixel_bytes=shape.stride[1] * shape.pixel_bytes,
            tap_bytes=shape.dilation[1] * shape.pixel_bytes,
            row_bytes=shape.dilation[0] * shape.width * shape.pixel_bytes, taps=shape.window[1],
            runs=span.runs, ahead=self.ahead,
            has_start=self.spec.inputs[0].dtype is DType.INT8, epilogue=self.epilogue,
        )

    def _entries(self) -> Array:
        """The tiles of an image, compiled."""
        last = self.shape.out_channels // LANES % self.vectors
        addresses: dict[tuple[Any, ...], tuple[int, int]] = {}
        entries = np.zeros((len(self.tiles), len(Entry)), np.int64)
        for entry, tile in zip(entries, self.tiles, strict=True):
            key = (tile.span.pixels, tile.span.runs)
            if key not in addresses:
                addresses[key] = (
                    tile_kernel(self._kernel(tile.span, self.vectors)),
                    tile_kernel(self._kernel(tile.span, last)) if last else 0,
                )
            entry[Entry.kernel], entry[Entry.last_kernel] = addresses[key]
            self._place(entry, tile)
        return entries

    def _place(self, entry: Array, tile: Tile) -> None:
        shape = self.shape
        y = tile.y * shape.stride[0] - shape.padding[0] + tile.first * shape.dilation[0]
        x = tile.span.start * shape.stride[1] - shape.padding[1]
        entry[Entry.source_bytes] = (y * shape.width + x) * shape.pixel_bytes
        entry[Entry.vector_bytes] = tile.first * shape.window[1] * shape.channels * LANES
        entry[Entry.pixel] = tile.y * shape.out_width + tile.span.start
        entry[Entry.rows] = tile.rows

    def _numbers(self) -> Array:
        """The `Field` numbers but for addresses of memory."""
        shape, vectors = self.shape, self.vectors
        taps = shape.window[0] * shape.window[1]
        rounds = self._kernel(self.tiles[0].span, vectors).ahead_bytes
        gomp = openmp()
        fields = self.copy | {
            Field.tile_count: len(self.tiles), Field.images: self.images,
            Field.image_bytes: shape.height * shape.width * shape.pixel_bytes,
            Field.image_elements: shape.out_height * shape.out_width * shape.out_channels,
            Field.out_channels: shape.out_channels, Field.panels: self.panels,
            Field.whole_panels: shape.out_channels // LANES // vectors,
            Field.panel_bytes: taps * shape.channels * LANES * vectors,
            Field.vectors: vectors, Field.last_vectors: shape.out_channels // LANES % vectors,
            Field.columns: self.columns, Field.ahead_bytes: rounds * shape.window[0],
            Field.thread_number: address_of_function(gomp.omp_get_thread_num),
            Field.thread_count: address_of_function(gomp.omp_get_num_threads),
        }
        numbers: Array = np.zeros(len(Field), np.int64)
        for field, value in fields.items():
            numbers[field] = value
        return numbers


@dataclass
class BytesPrepared(Prepared):
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
    workspace_bytes: int = 0
    may_overwrite: tuple[int, ...] = ()

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call."""
        numbers = self.numbers.copy()
        table = bound_table(self.operands, self.behind, inputs, outputs)
        numbers[Field.table] = address_of(table)
        if self.workspace_bytes:
            numbers[Field.source] = workspace
            follow(inputs[0], numbers, Field.given)
        else:
            follow(inputs[0], numbers, Field.source)
        return [(ParallelCall(self.driver, self.threads, numbers, (self, table)), ())]
