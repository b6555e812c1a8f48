"""Which products by stored weights the compiled kernels take, and how one is prepared and bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch2rt import expression as ex
from torch2rt.backends.buffer import Buffer, address_of, aligned_bytes
from torch2rt.backends.cpu.jit import JitUnavailable, Machine, jit_unavailable, machine
from torch2rt.backends.cpu.jit.parallel import ParallelCall, address_of_function, follow
from torch2rt.backends.cpu.jit.print_vector import missing_op
from torch2rt.backends.cpu.onednn.openmp import get_threads, openmp, openmp_unavailable
from torch2rt.backends.cpu.stored_weights import kernel
from torch2rt.backends.cpu.stored_weights.kernel import PANEL, TABLE, Product, stored_kernel
from torch2rt.backends.cpu.winograd.element import ELEMENTS, Element, widened
from torch2rt.backends.cpu.winograd.output import Operand
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Call, Prepared, Refusal, Unprepared, Weights
from torch2rt.backends.unpacked import stored_refusal
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import Array

# With more rows the time is that of multiplying, which larger tiles of float weights do better.
MAX_ROWS = 32


def refusal(spec: LayerSpec) -> Refusal | None:
    """Why the kernels do not take a layer, or None."""
    reason = stored_refusal(spec)
    if reason is not None:
        return reason
    dtypes = {spec.inputs[0].dtype, spec.outputs[0].dtype}
    dtypes |= {operand.dtype for operand in spec.inputs[spec.main_count :]}
    if not dtypes <= set(ELEMENTS):
        return Refusal("written for float32 and bfloat16")
    missing = jit_unavailable() or openmp_unavailable()
    if missing is not None:
        return Refusal(missing)
    rows = math.prod(spec.outputs[0].shape[:-1])
    if not 0 < rows <= MAX_ROWS or not spec.outputs[0].shape[-1]:
        return Refusal(f"not 1 to {MAX_ROWS} rows")
    depth, lanes = spec.inputs[0].shape[-1], machine().lanes
    if not depth or (depth % lanes and ELEMENTS[spec.inputs[0].dtype] is not Element.F32):
        return Refusal(f"the input channels are no multiple of {lanes}")
    return _epilogue_refusal(spec)


def _epilogue_refusal(spec: LayerSpec) -> Refusal | None:
    missing = missing_op(spec.epilogue) if spec.epilogue is not None else None
    if missing is not None:
        return Refusal(f"the kernels have no {missing}")
    for index in range(spec.main_count, len(spec.inputs)):
        if _operand_kind(spec, index) is None:
            return Refusal(f"epilogue input {index} broadcasts in another way than by channel")
    return None


def _operand_kind(spec: LayerSpec, index: int) -> str | None:
    """What an epilogue input is: "tensor", "channel", "scalar", or None for anything else."""
    given, target = spec.inputs[index], spec.outputs[0]
    is_constant = spec.constants[index] is not None
    if given.element_count == 1 and (is_constant or given.shape != target.shape):
        return "scalar"
    if is_constant:
        columns = given.shape[-1] if given.rank else 1
        return "channel" if given.element_count == columns == target.shape[-1] else None
    return "tensor" if given.shape == target.shape else None


def prepare(spec: LayerSpec, weights: Weights) -> Prepared:
    """Compile the kernel, unless this process has it; pack the weights."""
    try:
        target = machine()
        product = _product(spec)
        function = stored_kernel(product, target)
    except JitUnavailable as error:
        raise Unprepared(str(error)) from error
    further = range(spec.main_count, len(spec.inputs))
    threads = get_threads()
    is_widened = product.source is not Element.F32
    return StoredPrepared(
        function, threads, _packed(spec, weights, target),
        [_constant(spec, weights, index, product.panels(target) * PANEL * target.lanes)
         for index in further],
        workspace_bytes=4 * threads * product.m * product.k if is_widened else 0,
        may_overwrite=tuple(
            index for index, operand in zip(further, product.operands, strict=True)
            if operand == Operand("tensor", product.target)
        ),
    )


def _product(spec: LayerSpec) -> Product:
    operands = []
    for index in range(spec.main_count, len(spec.inputs)):
        is_constant = spec.constants[index] is not None
        element = Element.F32 if is_constant else ELEMENTS[spec.inputs[index].dtype]
        operands.append(Operand(str(_operand_kind(spec, index)), element))
    *rows, n = spec.outputs[0].shape
    return Product(
        math.prod(rows), spec.inputs[0].shape[-1], n, ELEMENTS[spec.inputs[0].dtype],
        ELEMENTS[spec.outputs[0].dtype], spec.epilogue or ex.Input(0), tuple(operands),
    )


def _packed(spec: LayerSpec, weights: Weights, target: Machine) -> Array:
    """The weights as [panels, k, output channels of a panel], zeros behind the last channel."""
    name, kind = spec.constants[1], spec.kind
    assert name is not None
    assert isinstance(kind, Matmul)
    width = PANEL * target.lanes

    def make() -> Array:
        given = weights.array(name).reshape(spec.inputs[1].shape)
        rows = given if kind.transpose_b else given.T
        n, k = rows.shape
        panels = -(-n // width)
        packed: Array = aligned_bytes(panels * k * width).view(np.int8).reshape(panels, k, width)
        packed[-1] = 0
        for panel in range(panels):
            part = rows[panel * width : (panel + 1) * width]
            packed[panel, :, : len(part)] = part.T
        return packed

    made: Array = weights.packed((name, "stored", width, kind.transpose_b), make)
    return made


def _constant(spec: LayerSpec, weights: Weights, index: int, padded: int) -> Array | None:
    """A constant input of the epilogue in f32, padded with zeros; None for one with a buffer."""
    name = spec.constants[index]
    if name is None:
        return None

    def make() -> Array:
        values = widened(weights.array(name)).reshape(-1)
        target: Array = aligned_bytes(4 * padded).view(np.float32)
        target[:] = 0
        target[: values.size] = values
        return target

    made: Array = weights.packed((name, "stored operand", padded), make)
    return made


@dataclass
class StoredPrepared(Prepared):
    """One parallel region: ``function`` run by ``threads`` threads.

    ``operands`` are the epilogue's inputs, None for those with buffers.
    """

    function: int
    threads: int
    weights: Array
    operands: Sequence[Array | None]
    workspace_bytes: int = 0
    may_overwrite: tuple[int, ...] = ()

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call."""
        library = openmp()
        numbers: Array = np.zeros(TABLE + 1 + len(self.operands), np.int64)
        numbers[kernel.WEIGHTS] = address_of(self.weights)
        numbers[kernel.WORKSPACE] = workspace
        numbers[kernel.THREAD_NUMBER] = address_of_function(library.omp_get_thread_num)
        numbers[kernel.THREAD_COUNT] = address_of_function(library.omp_get_num_threads)
        follow(inputs[0], numbers, kernel.SOURCE)
        follow(outputs[0], numbers, TABLE)
        first = len(inputs) - len(self.operands)
        for position, operand in enumerate(self.operands):
            if operand is None:
                follow(inputs[first + position], numbers, TABLE + 1 + position)
            else:
                numbers[TABLE + 1 + position] = address_of(operand)
        return [(ParallelCall(self.function, self.threads, numbers, self), ())]
