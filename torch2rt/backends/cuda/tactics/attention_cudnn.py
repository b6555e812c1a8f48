"""Attention by cuDNN's fused kernels."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cudnn.description import GraphWriter, NotInCudnn, Operand
from torch2rt.backends.cuda.cudnn.operands import check_floats, settled
from torch2rt.backends.cuda.cudnn.tactic import CudnnTactic, LayerGraph, Source, plan_variants
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.layers.attention import Attention
from torch2rt.network.dtype import DType

PLAN_COUNT = 4
_MAX_FEATURES = 128


class CudnnAttention(CudnnTactic):
    """One node for scaled dot-product attention over [batch, heads, rows, features].

    Heads that stand behind rows are a matter of strides. Masks are refused: a query whose keys
    are all hidden must give zeros, and cuDNN says nothing of it.
    """

    kinds: ClassVar[tuple[str, ...]] = ("attention",)

    def graph(self, spec: LayerSpec) -> LayerGraph:
        """The graph. NotInCudnn for float32, masks, and batches that broadcast."""
        kind = spec.kind
        if not isinstance(kind, Attention):
            raise NotInCudnn(f"{kind.name} is not attention")
        if spec.epilogue is not None:
            raise NotInCudnn("attention with an epilogue")
        if kind.has_mask:
            raise NotInCudnn("a mask")
        check_floats(spec)
        if spec.inputs[0].dtype is DType.FLOAT32:
            raise NotInCudnn("float32")
        operands = [
            _heads_first(tensor, is_last)
            for tensor, is_last in zip(spec.inputs, kind.inputs_heads_last, strict=True)
        ]
        _check_sizes(operands, kind)
        writer = GraphWriter()
        values = [writer.operand(operand) for operand in operands]
        result = writer.node("sdpa", *values, scale=kind.scale, is_causal=kind.is_causal)
        output = _heads_first(spec.outputs[0], kind.output_heads_last)
        description = writer.finish(result, output, is_full_float32=False)
        return LayerGraph(description, tuple(map(Source, range(len(operands)))))


def _heads_first(tensor: TensorSpec, is_last: bool) -> Operand:
    """A tensor as [batch, heads, rows, features]."""
    if not 2 <= tensor.rank <= 4:
        raise NotInCudnn(f"{tensor.rank} axes")
    missing = 4 - tensor.rank
    dims, strides = list((1,) * missing + tensor.shape), list((0,) * missing + tensor.strides)
    if is_last:
        for axes in (dims, strides):
            axes[1], axes[2] = axes[2], axes[1]
    order = (3, 1, 2, 0) if is_last else (3, 2, 1, 0)
    return Operand(tuple(dims), settled(dims, strides, order), tensor.dtype)


def _check_sizes(operands: list[Operand], kind: Attention) -> None:
    q, k, v = (operand.dims for operand in operands)
    if not q[0] == k[0] == v[0] or k[1] != v[1]:
        raise NotInCudnn(f"batches that broadcast: {list(q)}, {list(k)}, {list(v)}")
    if (q[1] % k[1] if kind.is_grouped else q[1] != k[1]):
        raise NotInCudnn(f"{q[1]} heads of queries and {k[1]} of keys")
    for features in (q[3], v[3]):
        if features % 8 or features > _MAX_FEATURES:
            raise NotInCudnn(f"{features} features a head")


globals().update(plan_variants(CudnnAttention, "attention.cudnn", PLAN_COUNT, __name__))
