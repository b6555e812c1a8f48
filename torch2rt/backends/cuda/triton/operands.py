"""What a Triton kernel is told of a layer: its axes folded to few, its epilogue's operands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch2rt.backends.cuda.device import FLOAT8_CAPABILITY, current_device
from torch2rt.backends.cuda.launch import I32
from torch2rt.backends.cuda.triton.kernel import Program, Value
from torch2rt.backends.cuda.triton.print_triton import print_epilogue, refusal_reason
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Refusal
from torch2rt.kernels.triton import source
from torch2rt.layers.accumulator import has_stored_weights
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

TRITON_FLOATS = {DType.FLOAT16: "fp16", DType.BFLOAT16: "bf16", DType.FLOAT32: "fp32"}
TRITON_TYPES = {
    **TRITON_FLOATS, DType.FLOAT8_E4M3: "fp8e4nv", DType.INT8: "i8", DType.INT32: "i32",
}
# What tensor cores multiply; what may be stored, or read by an epilogue.
_FACTORS = (*TRITON_FLOATS, DType.INT8, DType.FLOAT8_E4M3)
_STORED = (*TRITON_FLOATS, DType.INT8)
MAX_EXTRAS = 3
MAX_OFFSET = 2**31 - 1
# Terms of a sum of products of bytes that stay within 2^22, and within int32.
_SMALL_SUM_TERMS = 2**22 // (128 * 127)
_MAX_SUM_TERMS = 2**31 // (128 * 128) - 1
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
    dtype, second, out = spec.inputs[0].dtype, spec.inputs[1].dtype, spec.outputs[0].dtype
    stored = (*_STORED, DType.FLOAT8_E4M3)
    is_bare = spec.epilogue is None and out is DType.INT32 and dtype is DType.INT8
    is_taken = second is dtype or has_stored_weights(dtype, second)
    if dtype not in _FACTORS or not is_taken or not (out in stored or is_bare):
        return Refusal(f"{dtype.value} times {second.value} to {out.value}")
    if dtype is DType.INT8 and sum_terms(spec) > _MAX_SUM_TERMS:
        return Refusal(f"sums of {sum_terms(spec)} products of bytes leave int32")
    if DType.FLOAT8_E4M3 in (dtype, out) and current_device().capability < FLOAT8_CAPABILITY:
        return Refusal("products of float8 of before sm_89")
    extras = spec.inputs[spec.main_count :]
    if len(extras) > MAX_EXTRAS:
        return Refusal(f"{len(extras)} operands of the epilogue; at most {MAX_EXTRAS} are taken")
    for operand in extras:
        if operand.dtype not in _STORED:
            return Refusal(f"an epilogue operand in {operand.dtype.value}")
    if any(max_offset(operand) > MAX_OFFSET for operand in (*spec.inputs, *spec.outputs)):
        return Refusal("a tensor of 2^31 elements or more")
    reason = refusal_reason(spec.epilogue, out, integer_inputs(spec))
    return Refusal(reason) if reason is not None else None


def sum_terms(spec: LayerSpec) -> int:
    """Products that one sum adds: of a constant or other weight [k, ...], or of a matrix."""
    if isinstance(spec.kind, Matmul):
        return spec.inputs[0].shape[-2 if spec.kind.transpose_a else -1]
    return math.prod(spec.inputs[1].shape[1:])


def integer_inputs(spec: LayerSpec) -> frozenset[int]:
    """The expression's inputs that are integers; 0 is the sum."""
    extras = spec.inputs[spec.main_count :]
    found = {i for i, operand in enumerate(extras, 1) if not operand.dtype.is_float}
    return frozenset(found if spec.inputs[0].dtype.is_float else found | {0})


def result_bytes(out: DType, extras: Sequence[Extra]) -> int:
    """Bytes that are stored and read by the epilogue per element of the result."""
    return out.itemsize_bytes + sum(
        extra.dtype.itemsize_bytes for extra in extras if extra.kind == "matrix"
    )


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
    is_small = spec.inputs[0].dtype is DType.INT8 and sum_terms(spec) <= _SMALL_SUM_TERMS
    text = source(file) + "\n\n" + print_epilogue(spec.epilogue, PARAMETERS, is_small=is_small)
    program = Program(
        kernel, text, tuple(parameters), (*fixed.items(), *constants.items()), tuple(divisors),
        warps, stages,
    )
    return program, [I32(number) for name, number in numbers.items() if name not in fixed]
