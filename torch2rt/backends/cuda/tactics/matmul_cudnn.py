"""Matrix product by cuDNN, the whole epilogue fused: one tactic per plan that it proposes."""

from __future__ import annotations

import math
from typing import ClassVar

from torch2rt.backends.cuda.cudnn.description import GraphWriter, NotInCudnn, Operand
from torch2rt.backends.cuda.cudnn.operands import check_floats, check_rows, merged, settled
from torch2rt.backends.cuda.cudnn.print_cudnn import print_cudnn
from torch2rt.backends.cuda.cudnn.tactic import CudnnTactic, LayerGraph, Source, plan_variants
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.layers.matmul import Matmul
from torch2rt.network.dtype import DType

PLAN_COUNT = 5


class CudnnMatmul(CudnnTactic):
    """A product [batch, m, k] [batch, k, n], then pointwise nodes.

    With one right matrix for all, the batch of the left ones is part of their rows.
    """

    kinds: ClassVar[tuple[str, ...]] = ("matmul",)

    def graph(self, spec: LayerSpec) -> LayerGraph:
        """The graph. NotInCudnn for odd sizes, and stacks of which some matrices repeat."""
        kind = spec.kind
        if not isinstance(kind, Matmul):
            raise NotInCudnn(f"{kind.name} is not a matmul")
        check_floats(spec)
        a, b = spec.inputs[:2]
        output = spec.outputs[0]
        check_rows(a.dtype, a.shape[-1], b.shape[-1], output.shape[-1])
        is_flat = math.prod(b.shape[:-2]) == 1 and not kind.transpose_a
        batch = 1 if is_flat else math.prod(output.shape[:-2])
        writer = GraphWriter()
        left = writer.operand(_left(a, batch, kind.transpose_a))
        right = writer.operand(_stacked(b, batch, kind.transpose_b))
        extras = [
            writer.operand(_epilogue_operand(x, output, is_flat)) for x in spec.inputs[2:]
        ]
        value = writer.node("matmul", left, right)
        if spec.epilogue is not None:
            printed = print_cudnn(spec.epilogue, writer, [value, *extras])
            if not isinstance(printed, int):
                raise NotInCudnn("an epilogue that is a constant")
            value = printed
        is_float32 = a.dtype is DType.FLOAT32
        description = writer.finish(
            value, _result(output, is_flat), is_full_float32=is_float32 and not kind.tf32
        )
        return LayerGraph(description, tuple(map(Source, range(len(spec.inputs)))))


def _left(a: TensorSpec, batch: int, is_transposed: bool) -> Operand:
    if batch == 1 and not is_transposed:
        return _flat(a)
    return _stacked(a, batch, is_transposed)


def _result(output: TensorSpec, is_flat: bool) -> Operand:
    return _flat(output) if is_flat else _stacked(output, math.prod(output.shape[:-2]), False)


def _flat(tensor: TensorSpec) -> Operand:
    """[1, all rows, columns]."""
    rows, stride = merged(tensor.shape[:-1], tensor.strides[:-1], "a matrix")
    dims = (1, rows, tensor.shape[-1])
    return Operand(dims, settled(dims, (0, stride, 1), (2, 1, 0)), tensor.dtype)


def _stacked(tensor: TensorSpec, batch: int, is_transposed: bool) -> Operand:
    """[batch, rows, columns], or with a batch of 1 that serves all."""
    size, stride = merged(tensor.shape[:-2], tensor.strides[:-2], "a stack of matrices")
    if size not in (1, batch):
        raise NotInCudnn(f"a stack {list(tensor.shape)} of which some matrices repeat")
    dims = (size, *tensor.shape[-2:])
    strides = settled(dims, (stride, *tensor.strides[-2:]), (2, 1, 0))
    if is_transposed:
        dims, strides = (dims[0], dims[2], dims[1]), (strides[0], strides[2], strides[1])
    return Operand(dims, strides, tensor.dtype)


def _epilogue_operand(tensor: TensorSpec, output: TensorSpec, is_flat: bool) -> Operand:
    """A tensor like the output, or one value per column, or one value."""
    if tensor.shape == output.shape:
        return _result(tensor, is_flat)
    columns = tensor.shape[-1] if tensor.rank else 1
    if tensor.element_count != columns or columns not in (1, output.shape[-1]):
        raise NotInCudnn(f"an epilogue input {list(tensor.shape)} for {list(output.shape)}")
    return Operand((1, 1, columns), (columns, columns, 1), tensor.dtype)


globals().update(plan_variants(CudnnMatmul, "matmul.cudnn", PLAN_COUNT, __name__))
