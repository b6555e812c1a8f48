"""What a Triton kernel is told of a layer: its axes folded to few, its epilogue's operands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch2rt.backends.cuda.launch import I32
from torch2rt.backends.cuda.triton.kernel import Program, Value
from torch2rt.backends.cuda.triton.print_triton import print_epilogue, refusal_reason
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.kernels.triton import source
from torch2rt.network.dtype import DType

TRITON_TYPES = {DType.FLOAT16: "fp16", DType.BFLOAT16: "bf16", DType.FLOAT32: "fp32"}
MAX_EXTRAS = 3
MAX_OFFSET = 2**31 - 1
PARAMETERS = ("acc", "i1", "i2", "i3")


@dataclass(frozen=True, slots=True)
class Axis:
    """A size, and every operand's stride along it in elements (0 where it repeats)."""

    size: int
    strides: tuple[int, ...]


def fold(axes: Sequence[Axis]) -> list[Axis]:
    """The same axes with neighbours merged wherever they are one to every operand."""
    folded: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        if folded and all(
            outer == inner * axis.size
            for outer, inner in zip(folded[-1].strides, axis.strides, strict=True)
        ):
            axis = Axis(folded.pop().size * axis.size, axis.strides)
        folded.append(axis)
    return folded


def aligned_strides(operand: TensorSpec, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides along the axes of ``shape``, to which the operand broadcasts."""
    missing = len(shape) - operand.rank
    strides = (0,) * missing + operand.strides
    sizes = (1,) * missing + operand.shape
    return tuple(
        stride if size > 1 else 0 for stride, size in zip(strides, sizes, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Extra:
    """An epilogue operand: kind as in ``read_operand``, strides over outer, inner, rows."""

    index: int
    kind: str
    dtype: DType
    strides: tuple[int, int, int]


def classify_extra(
    index: int, dtype: DType, strides: tuple[int, int, int], column_stride: int, columns: int
) -> Extra | None:
    """The operand by its strides, or None when its columns are not dense."""
    if any(strides):
        dense = column_stride == 1 or columns == 1
        return Extra(index, "matrix", dtype, strides) if dense else None
    if column_stride == 0:
        return Extra(index, "scalar", dtype, strides)
    return Extra(index, "column", dtype, strides) if column_stride == 1 else None


def epilogue_refusal(spec: LayerSpec) -> Refusal | None:
    """Why no kernel of ours takes the layer's dtypes or epilogue, whatever the sizes."""
    dtype = spec.inputs[0].dtype
    if dtype not in TRITON_TYPES or spec.outputs[0].dtype not in TRITON_TYPES:
        return Refusal(f"{dtype.value} to {spec.outputs[0].dtype.value}")
    extras = spec.inputs[spec.main_count :]
    if len(extras) > MAX_EXTRAS:
        return Refusal(f"{len(extras)} operands of the epilogue; at most {MAX_EXTRAS} are taken")
    for operand in extras:
        if operand.dtype not in TRITON_TYPES:
            return Refusal(f"an epilogue operand in {operand.dtype.value}")
    if any(max_offset(operand) > MAX_OFFSET for operand in (*spec.inputs, *spec.outputs)):
        return Refusal("a tensor of 2^31 elements or more")
    reason = refusal_reason(spec.epilogue)
    return Refusal(reason) if reason is not None else None


def max_offset(operand: TensorSpec) -> int:
    """Offset of the last element."""
    return sum(
        (size - 1) * stride for size, stride in zip(operand.shape, operand.strides, strict=True)
    )


def make_program(
    spec: LayerSpec, file: str, kernel: str, types: Sequence[tuple[str, str]],
    numbers: Mapping[str, int], constants: Mapping[str, Value], warps: int, stages: int,
) -> tuple[Program, list[I32]]:
    """The program of a file's kernel with the layer's epilogue, and the numbers its launch takes.

    ``types`` are the parameters before the numbers, "constexpr" for those left out. A number that
    is 0 or 1 becomes part of the code; of others but ``m``, whether 8 or 16 divides them does.
    """
    fixed: dict[str, Value] = {name: None for name, kind in types if kind == "constexpr"}
    fixed |= {name: number for name, number in numbers.items() if number in (0, 1)}
    parameters = [*types]
    parameters += [(name, "constexpr" if name in fixed else "i32") for name in numbers]
    parameters += [(name, "constexpr") for name in constants]
    divisors = [(name, 16) for name, kind in types if kind.startswith("*")]
    divisors += [
        (name, math.gcd(number, 16)) for name, number in numbers.items()
        if name not in fixed and name != "m" and number % 8 == 0
    ]
    text = source(file) + "\n\n" + print_epilogue(spec.epilogue, PARAMETERS)
    program = Program(
        kernel, text, tuple(parameters), (*fixed.items(), *constants.items()), tuple(divisors),
        warps, stages,
    )
    return program, [I32(number) for name, number in numbers.items() if name not in fixed]
