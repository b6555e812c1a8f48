"""Which convolutions Winograd's algorithm takes, and how one is laid out, prepared and bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt.backends.buffer import Buffer, address_of
from torch2rt.backends.cpu.epilogue import choice
from torch2rt.backends.cpu.jit import (
    JitUnavailable,
    Machine,
    has_bf16_products,
    jit_unavailable,
    machine,
)
from torch2rt.backends.cpu.jit.parallel import ParallelCall, address_of_function, follow
from torch2rt.backends.cpu.jit.print_vector import missing_op
from torch2rt.backends.cpu.onednn.openmp import get_threads, openmp, openmp_unavailable
from torch2rt.backends.cpu.winograd import driver, kernels, output
from torch2rt.backends.cpu.winograd.driver import Field
from torch2rt.backends.cpu.winograd.element import ELEMENTS, Element
from torch2rt.backends.cpu.winograd.output import Operand
from torch2rt.backends.cpu.winograd.weights import constant_operand, packed_weights
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Call, Prepared, Refusal, Unprepared, Weights
from torch2rt.layers.convolution import Convolution
from torch2rt.network.dtype import Array, DType

# What a block of tiles may take of a core's second-level cache, beside the weights flowing through.
BLOCK_BYTES = 640 * 1024
# Distance of matrices: not a multiple of a page, or all would fall on the same cache sets.
PADDING_ELEMENTS = 16
# Threads share the weights where these are so many times the transformed tiles and products.
SHARED_RATIO = 1.0


def refusal(spec: LayerSpec, m: int) -> Refusal | None:
    """Why F(m x m, 3 x 3) does not take a layer, or None."""
    kind = spec.kind
    if not isinstance(kind, Convolution):
        return Refusal(f"{kind.name} is not a convolution")
    x, weight = spec.inputs[:2]
    if x.rank != 4 or weight.shape[2:] != (3, 3):
        return Refusal("Winograd's algorithm is written for 3 x 3 windows")
    if kind.stride != (1, 1) or kind.dilation != (1, 1) or kind.groups != 1:
        return Refusal("Winograd's algorithm needs stride 1, dilation 1 and one group")
    reason = _dtype_reason(spec, m)
    if reason is not None:
        return Refusal(reason)
    if spec.constants[1] is None:
        return Refusal("the weights are no constant")
    if min(spec.outputs[0].shape) == 0 or min(spec.outputs[0].shape[2:]) < m:
        return Refusal(f"the output is smaller than a tile of {m} x {m}")
    reason = jit_unavailable() or openmp_unavailable()
    if reason is not None:
        return Refusal(reason)
    lanes = machine().lanes
    if x.shape[1] % lanes or weight.shape[0] % lanes:
        return Refusal(f"the channels are no multiples of {lanes}")
    return _epilogue_refusal(spec)


def _dtype_reason(spec: LayerSpec, m: int) -> str | None:
    """Why F(m x m, 3 x 3) does not take a layer's dtypes, or None."""
    dtypes = [tensor.dtype for tensor in (*spec.inputs, *spec.outputs)]
    if all(dtype is DType.FLOAT32 for dtype in dtypes):
        return None
    if dtypes[:2] != [DType.BFLOAT16] * 2 or any(dtype not in ELEMENTS for dtype in dtypes):
        return "the transforms are written for float32, or bfloat16 input and weights"
    if m != 2:
        return f"F({m} x {m}, 3 x 3) loses too much in bfloat16"
    if not has_bf16_products() or machine().lanes != 16:
        return "products of bfloat16 need a CPU with AVX512_BF16"
    return None


def _epilogue_refusal(spec: LayerSpec) -> Refusal | None:
    if spec.epilogue is None:
        return None
    missing = missing_op(spec.epilogue)
    if missing is not None:
        return Refusal(f"the output transform has no {missing}")
    for index in range(spec.main_count, len(spec.inputs)):
        if operand_kind(spec, index) is None:
            return Refusal(f"epilogue input {index} broadcasts in another way than by channel")
    return None


def operand_kind(spec: LayerSpec, index: int) -> str | None:
    """What an epilogue input is: "tensor", "channel", "scalar", or None for anything else."""
    given, target = spec.inputs[index], spec.outputs[0]
    is_constant = spec.constants[index] is not None
    if given.shape == target.shape and not is_constant:
        return "tensor"
    if given.element_count == 1:
        return "scalar"
    shape = (1,) * (target.rank - given.rank) + given.shape
    return "channel" if shape == (1, target.shape[1], 1, 1) else None


def layouts(spec: LayerSpec) -> Sequence[LayoutChoice]:
    """Channels last, and blocks of a register of channels."""
    blocked = Layout.BLOCKED16 if machine().lanes == 16 else Layout.BLOCKED8
    return [
        choice(spec, (layout, Layout.PLAIN), layout) for layout in (Layout.CHANNELS_LAST, blocked)
    ]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the tiles of a layer are divided: ``blocks`` nearly equal blocks, a share per thread."""

    rows: int
    columns: int
    images: int
    blocks: int

    @property
    def tiles(self) -> int:
        """Of all images."""
        return self.images * self.rows * self.columns

    @property
    def largest(self) -> int:
        """Tiles of a block at most."""
        return -(-self.tiles // self.blocks)

    def product_rows(self, most: int) -> set[int]:
        """The numbers of rows that products of at most so many rows divide blocks into."""
        sizes: set[int] = set()
        for tiles in {self.tiles // self.blocks, self.largest}:
            groups = -(-tiles // most)
            sizes |= {tiles // groups, -(-tiles // groups)}
        return sizes


def shares_weights(spec: LayerSpec, m: int) -> bool:
    """Whether reading the transformed weights once matters more than keeping tiles in cache."""
    channels, (images, out_channels, height, width) = spec.inputs[0].shape[1], spec.outputs[0].shape
    tiles = images * -(-height // m) * -(-width // m)
    size = ELEMENTS[spec.inputs[1].dtype].size_bytes
    others = tiles * (channels * size + out_channels * 4)
    return channels * out_channels * size > SHARED_RATIO * others


def tiling(spec: LayerSpec, m: int, threads: int, is_shared: bool) -> Tiling:
    """Blocks as large as the cache allows, as many for every thread; one if it is shared."""
    images, out_channels, height, width = spec.outputs[0].shape
    rows, columns = -(-height // m), -(-width // m)
    tiles = images * rows * columns
    if is_shared:
        return Tiling(rows, columns, images, 1)
    size = ELEMENTS[spec.inputs[0].dtype].size_bytes
    tile_bytes = (m + 2) ** 2 * (spec.inputs[0].shape[1] * size + out_channels * 4)
    fitting = max(6, BLOCK_BYTES // tile_bytes)
    each = -(-tiles // threads)
    blocks = min(-(-each // fitting) * threads, tiles)
    return Tiling(rows, columns, images, blocks)


def strides(spec: TensorSpec) -> tuple[int, int, int, int]:
    """Elements between images, pixel rows, pixels, and registers of channels."""
    _, channels, height, width = spec.shape
    image = channels * height * width
    if spec.layout is Layout.CHANNELS_LAST:
        return image, width * channels, channels, machine().lanes
    block = spec.layout.block
    if block != machine().lanes:
        raise Unprepared(f"layout {spec.layout.value} has no blocks of {machine().lanes}")
    return image, width * block, block, height * width * block


def prepare(spec: LayerSpec, weights: Weights, m: int) -> Prepared:
    """Compile what is not compiled yet, transform the weights."""
    # A saved plan may come from another CPU, and LLVM ends the process where this one lacks an op.
    reason = _dtype_reason(spec, m)
    if reason is not None:
        raise Unprepared(reason)
    try:
        return _prepared(spec, weights, m, machine())
    except JitUnavailable as error:
        raise Unprepared(str(error)) from error


def _prepared(spec: LayerSpec, weights: Weights, m: int, target: Machine) -> Prepared:
    threads = get_threads()
    is_shared = shares_weights(spec, m)
    divided = tiling(spec, m, threads, is_shared)
    packed = packed_weights(spec, weights, m, target)
    element, made = ELEMENTS[spec.inputs[0].dtype], ELEMENTS[spec.outputs[0].dtype]
    further = range(spec.main_count, len(spec.inputs))
    described = [_operand(spec, index) for index in further]
    numbers = _numbers(spec, m, divided, target)
    border = (m + 2) ** 2 * spec.inputs[0].shape[1]
    border_floats = border * element.size_bytes // 4
    elements = int(numbers[Field.border_offset]) + border_floats
    numbers[Field.workspace_elements] = elements
    numbers[Field.border_elements] = border
    numbers[Field.is_shared] = is_shared
    elements = elements + (threads - 1) * border_floats if is_shared else elements * threads
    keep = [packed, _product_tables(spec, divided, target)]
    numbers[Field.weights] = address_of(packed)
    numbers[Field.product_table] = address_of(keep[1])
    numbers[Field.last_product_table] = address_of(keep[1]) + 8 * target.rows
    numbers[Field.input_kernel] = kernels.input_kernel(m, element, target)
    numbers[Field.output_kernel] = output.output_kernel(
        m, spec.epilogue, described, made, target
    )
    operands = [constant_operand(spec, weights, index) for index in further]
    return WinogradPrepared(
        numbers, driver.driver_kernel(element, target), threads, operands, keep,
        workspace_bytes=elements * 4,
        may_overwrite=tuple(
            index for index, operand in zip(further, described, strict=True)
            if operand == Operand("tensor", made)
        ),
    )


def _operand(spec: LayerSpec, index: int) -> Operand:
    """How the output kernel reads an epilogue input; constants are made f32."""
    is_constant = spec.constants[index] is not None
    element = Element.F32 if is_constant else ELEMENTS[spec.inputs[index].dtype]
    return Operand(str(operand_kind(spec, index)), element)


def _product_tables(spec: LayerSpec, divided: Tiling, target: Machine) -> Array:
    """Addresses of the products for whole panels, then of those for what is left, by rows."""
    out_channels, depth = spec.inputs[1].shape[:2]
    left = out_channels // target.lanes % target.columns
    element = ELEMENTS[spec.inputs[1].dtype]
    table = np.zeros((2, target.rows), np.int64)
    for rows in divided.product_rows(target.rows):
        if out_channels >= target.lanes * target.columns:
            table[0, rows - 1] = kernels.product_kernel(
                rows, target.columns, depth, element, target
            )
        if left:
            table[1, rows - 1] = kernels.product_kernel(rows, left, depth, element, target)
    return table


def _numbers(spec: LayerSpec, m: int, divided: Tiling, target: Machine) -> Array:
    """The `Field` numbers that depend on shapes alone."""
    kind = spec.kind
    if not isinstance(kind, Convolution):
        raise Unprepared(f"{kind.name} is not a convolution")
    x, y = spec.inputs[0], spec.outputs[0]
    channels, out_channels = x.shape[1], y.shape[1]
    size, panel = m + 2, target.lanes * target.columns
    per_float = 4 // ELEMENTS[x.dtype].size_bytes
    input_matrix = divided.largest * channels + PADDING_ELEMENTS * per_float
    product_matrix = divided.largest * out_channels + PADDING_ELEMENTS
    product_offset = size**2 * input_matrix // per_float
    border_offset = product_offset + size**2 * product_matrix
    gomp = openmp()
    fields: dict[Field, int] = {
        Field.product_offset: product_offset, Field.border_offset: border_offset,
        Field.tile: m, Field.window: size, Field.blocks: divided.blocks, Field.tiles: divided.tiles,
        Field.tiles_per_row: divided.columns,
        Field.tiles_per_image: divided.columns * divided.rows,
        Field.height: x.shape[2], Field.width: x.shape[3],
        Field.out_height: y.shape[2], Field.out_width: y.shape[3],
        Field.pad_height: kind.padding_before[0], Field.pad_width: kind.padding_before[1],
        Field.channels: channels, Field.registers: channels // target.lanes,
        Field.out_registers: out_channels // target.lanes,
        Field.input_matrix: input_matrix, Field.product_matrix: product_matrix,
        Field.panels: -(-out_channels // panel), Field.whole_panels: out_channels // panel,
        Field.panel_elements: channels * panel, Field.panel_width: panel,
        Field.panel_products: divided.largest * panel, Field.last_panel_width: out_channels % panel,
        Field.rows: target.rows, Field.matrix_elements: channels * out_channels,
        Field.thread_number: address_of_function(gomp.omp_get_thread_num),
        Field.barrier: address_of_function(gomp.GOMP_barrier),
        Field.thread_count: address_of_function(gomp.omp_get_num_threads),
    }
    given = (Field.image_stride, Field.row_stride, Field.column_stride, Field.channel_stride)
    made = (Field.out_image_stride, Field.out_row_stride, Field.out_column_stride,
            Field.out_channel_stride)
    fields |= dict(zip(given, strides(x), strict=True))
    fields |= dict(zip(made, strides(y), strict=True))
    numbers = np.zeros(len(Field), np.int64)
    for field, value in fields.items():
        numbers[field] = value
    return numbers


@dataclass
class WinogradPrepared(Prepared):
    """One parallel region: ``driver`` run by ``threads`` threads on a copy of ``numbers``.

    ``operands`` are the epilogue's constants; ``keep`` is memory that the numbers point to.
    """

    numbers: Array
    driver: int
    threads: int
    operands: Sequence[Array | None]
    keep: Sequence[Array]
    workspace_bytes: int = 0
    may_overwrite: tuple[int, ...] = ()

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call."""
        numbers = self.numbers.copy()
        table = np.zeros(len(self.operands) + 1, np.int64)
        numbers[Field.table] = address_of(table)
        numbers[Field.workspace] = workspace
        follow(inputs[0], numbers, Field.source)
        follow(outputs[0], table, 0)
        first = len(inputs) - len(self.operands)
        for position, operand in enumerate(self.operands, 1):
            if operand is None:
                follow(inputs[first + position - 1], table, position)
            else:
                table[position] = address_of(operand)
        return [(ParallelCall(self.driver, self.threads, numbers, (self, table)), ())]
