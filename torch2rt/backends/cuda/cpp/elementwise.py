"""From the spec of a pointwise layer to the operands of our pointwise kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch2rt import expression as ex
from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.print_cpp import compute_type, missing_op, print_cpp
from torch2rt.backends.cuda.launch import Argument, Out
from torch2rt.backends.spec import LayerSpec, Layout, TensorSpec
from torch2rt.backends.tactic import Refusal, Unprepared, Weights
from torch2rt.kernels.cuda.pointwise import Operand
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.reformat import Reformat


def expression_of(spec: LayerSpec) -> ex.Expression:
    """The expression of a pointwise layer with its epilogue; a reformat's is its input.

    Without a final cast to the result's own dtype, which storing does.
    """
    if isinstance(spec.kind, Reformat):
        return ex.Input(0)
    if not isinstance(spec.kind, Pointwise):
        raise Unprepared(f"{spec.name}: {spec.kind.name} is not pointwise")
    root = spec.kind.expression
    if spec.epilogue is not None:
        shifted = ex.shift_inputs(spec.epilogue, 1, spec.main_count - 1)
        root = ex.substitute_inputs(shifted, {0: root})
    while isinstance(root, ex.Apply) and root.op == f"to_{spec.outputs[0].dtype.value}":
        root = root.arguments[0]
    return root


def cpp_refusal(spec: LayerSpec) -> Refusal | None:
    """Why no kernel of ours computes this, or None."""
    missing = missing_op(expression_of(spec))
    return Refusal(f"C++ has no {missing}") if missing is not None else None


def printed(spec: LayerSpec) -> str:
    """The layer's expression in ``i0``, ``i1``, ..."""
    names = [f"i{index}" for index in range(len(spec.inputs))]
    dtypes = [tensor.dtype for tensor in spec.inputs]
    return print_cpp(expression_of(spec), names, dtypes, spec.outputs[0].dtype)


def operand_strides(tensor: TensorSpec, output: TensorSpec) -> tuple[int, ...]:
    """Strides of a tensor along the output's axes in the output's order of memory.

    0 along axes that it broadcasts over.
    """
    lead = output.rank - tensor.rank
    return tuple(
        0 if axis < lead or tensor.shape[axis - lead] == 1 else tensor.strides[axis - lead]
        for axis in output.memory_order
    )


def merge_axes(
    sizes: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Axes of length 1 dropped and neighbours merged where every operand's strides allow it.

    ``strides`` holds one sequence per operand. At least one axis remains.
    """
    merged: list[tuple[int, list[int]]] = []
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        steps = [own[axis] for own in strides]
        if merged and all(
            outer == step * size for outer, step in zip(merged[-1][1], steps, strict=True)
        ):
            merged[-1] = (merged[-1][0] * size, steps)
        else:
            merged.append((size, steps))
    if not merged:
        return (1,), [(1,) for _ in strides]
    return (
        tuple(size for size, _ in merged),
        [tuple(steps[i] for _, steps in merged) for i in range(len(strides))],
    )


def kernel_operand(tensor: TensorSpec, strides: tuple[int, ...]) -> Operand:
    """An operand of a kernel."""
    return Operand(c_type(tensor.dtype), compute_type(tensor.dtype), strides)


def largest_offset(tensor: TensorSpec) -> int:
    """Elements from the first to behind the last."""
    return 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )


def arguments_of(spec: LayerSpec, weights: Weights) -> list[Argument]:
    """Addresses of the inputs, then that of the output."""
    return [*(operand(spec, weights, index) for index in range(len(spec.inputs))), Out(0)]


def full_layout(tensor: TensorSpec, output: TensorSpec, layout: Layout) -> Layout:
    """The layout for a tensor that has all axes of an image; PLAIN for others."""
    return layout if tensor.rank == output.rank and tensor.rank >= 3 else Layout.PLAIN


def overwritable(spec: LayerSpec) -> tuple[int, ...]:
    """Inputs of which every element lies where the output's element will."""
    output = spec.outputs[0]
    return tuple(
        index for index, tensor in enumerate(spec.inputs)
        if spec.constants[index] is None
        and tensor.shape == output.shape
        and tensor.dtype.itemsize_bytes == output.dtype.itemsize_bytes
        and tensor.strides == output.strides
        and (tensor.run, tensor.pitch) == (output.run, output.pitch)
    )


def ceil_divide(count: int, by: int) -> int:
    """How many pieces of a size hold so many."""
    return -(-count // by)


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a shape."""
    return math.prod(shape)
