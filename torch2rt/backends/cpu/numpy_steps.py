"""Expressions that oneDNN lacks, between oneDNN's steps: numpy on row-major copies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from torch2rt import expression as ex
from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.numpy_expression import (
    Evaluate,
    compile_expression,
    missing_op,
    store,
    widening,
)
from torch2rt.backends.cpu.onednn import Arg, DataType, Memory, MemoryDesc
from torch2rt.backends.cpu.steps import ArrayOperand, Operand, Source, StepBuilder
from torch2rt.backends.spec import TensorSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import Array, DType

_DTYPES = {
    DataType.f32: DType.FLOAT32, DataType.bf16: DType.BFLOAT16, DataType.f16: DType.FLOAT16,
    DataType.s32: DType.INT32, DataType.s8: DType.INT8, DataType.u8: DType.UINT8,
}


def store_by_numpy(
    builder: StepBuilder, leaves: Mapping[int, Source], booleans: frozenset[int],
    root: ex.Expression, target: Source,
) -> None:
    """Add steps that compute ``root`` of the leaves into ``target``; all of one rank.

    Operands that are not row-major are copied first, and a result that is not is copied last.
    """
    missing = missing_op(root, is_double=False)
    if missing is not None or isinstance(target, Memory):
        raise Unprepared(f"neither oneDNN nor numpy has {missing}")
    used = sorted({node.index for node in ex.walk(root) if isinstance(node, ex.Input)})
    renumbered = ex.substitute_inputs(
        root, {index: ex.Input(position) for position, index in enumerate(used)}
    )
    operands = [_array(builder, leaves[index], index in booleans) for index in used]
    plain = MemoryDesc.plain(target.desc.dims, target.desc.data_type)
    result = target if target.desc == plain else builder.temporary(plain)
    dtype = _dtype(plain, builder, target)
    widen = [widening(_operand_dtype(leaves[index])) for index in used]
    run = partial(_run, compile_expression(renumbered), widen, dtype)
    builder.call(run, _operand(result, dtype), *operands)
    if result is not target:
        desc = onednn.reorder(plain, target.desc)
        builder.execute(desc, {Arg.src: result, Arg.dst: target})


def _array(builder: StepBuilder, source: Source, is_bool: bool) -> ArrayOperand | Array:
    """The row-major array of a source, behind a copying step where it lies otherwise."""
    dtype = DType.BOOL if is_bool else _operand_dtype(source)
    if isinstance(source, Memory):
        bits = onednn.unpack(source)
        return bits.view(np.bool_) if is_bool else bits
    plain = builder.converted(source, MemoryDesc.plain(source.desc.dims, source.desc.data_type))
    if isinstance(plain, Memory):
        raise TypeError("a source in the workspace became constant")
    return _operand(plain, dtype)


def _operand(source: Operand, dtype: DType) -> ArrayOperand:
    return ArrayOperand(source.place, TensorSpec(source.desc.dims, dtype))


def _operand_dtype(source: Source) -> DType:
    return _DTYPES[source.desc.data_type]


def _dtype(plain: MemoryDesc, builder: StepBuilder, target: Source) -> DType:
    """The dtype to store: bool where the layer's result is one."""
    is_output = isinstance(target, Operand) and target.place.where == "output"
    if is_output and builder.spec.outputs[0].dtype is DType.BOOL:
        return DType.BOOL
    return _DTYPES[plain.data_type]


def _run(
    evaluate: Evaluate, widen: list[Any], dtype: DType, out: Array, *operands: Array
) -> None:
    values = [
        convert(operand) if convert is not None else operand
        for convert, operand in zip(widen, operands, strict=True)
    ]
    result = evaluate(values)
    if dtype in EIGHT_BITS:  # as oneDNN stores a float in 8 bits
        limits = np.iinfo(dtype.numpy)
        result = np.clip(np.rint(result), limits.min, limits.max)
    store(out, result, dtype)
