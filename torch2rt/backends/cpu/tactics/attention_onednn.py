"""Attention by oneDNN: scores, softmax, mix; the scores stay in the workspace.

No fast matmul or binary of oneDNN takes an operand of one value per row of the scores, so no step
here has one: what varies by query alone is spread over the keys first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.attention_mask import AttentionMask, Spread
from torch2rt.backends.cpu.descriptors import aligned_shape
from torch2rt.backends.cpu.epilogue import Fusion, add_fused
from torch2rt.backends.cpu.expression_steps import is_usable
from torch2rt.backends.cpu.layouts import is_supported_float
from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Attributes,
    Binary,
    DataType,
    Eltwise,
    MemoryDesc,
    PostOp,
    PrimitiveDesc,
    post_op_arg,
)
from torch2rt.backends.cpu.steps import Operand, Source, StepBuilder
from torch2rt.backends.cpu.tactics.matmul_onednn import data_type_of_output, element_type
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.attention import Attention
from torch2rt.network.dtype import DType

MAX_RANK = 6
_MASK_DTYPES = (DType.BOOL, DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)


class ComposedAttention(Tactic):
    """Two matmuls around a softmax; scale and mask are post-ops of the first."""

    name: ClassVar[str] = "attention.onednn.composed"
    kinds: ClassVar[tuple[str, ...]] = ("attention",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats that the CPU computes in; a float or bool mask; no epilogue operands."""
        kind = _kind(spec)
        if spec.outputs[0].rank + kind.is_grouped > MAX_RANK:
            return Refusal(f"{spec.outputs[0].rank} axes")
        if spec.main_count < len(spec.inputs):
            return Refusal("an epilogue with operands")
        for tensor in (*spec.inputs[:3], *spec.outputs):
            if tensor.dtype is not spec.outputs[0].dtype:
                return Refusal("operands of several dtypes")
        if kind.has_mask and spec.inputs[3].dtype not in _MASK_DTYPES:
            return Refusal(f"a mask of {spec.inputs[3].dtype.value}")
        if kind.has_mask and kind.is_causal:
            return Refusal("a mask beside the causal one")
        without_mask = LayerSpec(
            spec.name, spec.where, spec.kind, spec.epilogue, spec.inputs[:3], spec.outputs,
            spec.constants[:3],
        )
        return is_supported_float(without_mask)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the three primitives and those of the mask."""
        builder = StepBuilder(spec, weights)
        shapes = attention_shapes(spec)
        element = element_type(spec)
        q, k, v = (
            builder.input(index, MemoryDesc.plain(strided.dims, element, strided.strides))
            for index, strided in enumerate((shapes.q, shapes.k, shapes.v))
        )
        mask = AttentionMask(builder, _kind(spec), shapes.mask, shapes.scores)
        scores = _add_scores(builder, q, k, mask, shapes)
        shares = _add_softmax(builder, scores, element)
        for visible in mask.visible:
            _add_product(builder, shares, visible)
        _add_mix(builder, shares, v, shapes)
        return builder.finish()


def _add_scores(
    builder: StepBuilder, q: Source, k: Source, mask: AttentionMask, shapes: AttentionShapes
) -> Operand:
    """Scale q k^T, with the mask added where there is one, in f32."""
    scores = builder.temporary(MemoryDesc.plain(shapes.scores, DataType.f32))
    first: list[PostOp] = [Eltwise(Algorithm.linear, _kind(builder.spec).scale)]
    memories: dict[int, Source] = {Arg.src: q, Arg.weights: k, Arg.dst: scores}

    def make(added: MemoryDesc | None) -> PrimitiveDesc:
        post_ops = [*first, Binary(Algorithm.add, added)] if added is not None else first
        if mask.lowest is not None:
            post_ops = [*post_ops, Eltwise(Algorithm.clip_v2, mask.lowest, math.inf)]
        attributes = Attributes(post_ops)
        return onednn.matmul(q.desc, k.desc, None, scores.desc, attributes=attributes)

    if mask.addend is None:
        _execute(builder, make(None), memories, scores)
    else:
        desc, addend = _with_operand(make, mask.addend, scores)
        builder.execute(desc, {**memories, post_op_arg(len(first)): addend})
    return scores


def _with_operand(
    make: Callable[[MemoryDesc], PrimitiveDesc], operand: Spread, target: Operand
) -> tuple[PrimitiveDesc, Source]:
    """A fast primitive and its operand, which is spread no further than that takes."""
    dims, whole = operand.dims, target.desc.dims
    for wanted in dict.fromkeys((dims, (whole[0], *dims[1:]), whole)):
        desc = make(MemoryDesc.plain(wanted, operand.data_type))
        if is_usable(desc, math.prod(whole)):
            return desc, operand.spread(wanted)
    raise Unprepared("oneDNN has no fast primitive that takes the mask")


def _add_softmax(builder: StepBuilder, scores: Operand, element: DataType) -> Operand:
    """Softmax of the scores over the keys, in the dtype of the values."""
    shares = scores
    if element is not DataType.f32:
        shares = builder.temporary(MemoryDesc.plain(scores.desc.dims, element))
    axis = len(scores.desc.dims) - 1
    desc = onednn.softmax(scores.desc, shares.desc, axis)
    _execute(builder, desc, {Arg.src: scores, Arg.dst: shares}, shares)
    return shares


def _add_product(builder: StepBuilder, shares: Operand, visible: Spread) -> None:
    """Multiply the shares in place."""

    def make(factor: MemoryDesc) -> PrimitiveDesc:
        return onednn.binary(Algorithm.mul, shares.desc, factor, shares.desc)

    desc, factor = _with_operand(make, visible, shares)
    builder.execute(desc, {Arg.src: shares, Arg.src_1: factor, Arg.dst: shares})


def _add_mix(
    builder: StepBuilder, shares: Operand, v: Source, shapes: AttentionShapes
) -> None:
    """The mean of the values by their shares, and the epilogue."""

    def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
        return onednn.matmul(shares.desc, v.desc, None, dst, attributes=attributes)

    y = shapes.y
    output = MemoryDesc.plain(y.dims, data_type_of_output(builder.spec), y.strides)
    memories: dict[int, Source] = {Arg.src: shares, Arg.weights: v}
    add_fused(builder, Fusion(make, lambda desc: memories, can_sum=False, output=output))


def _execute(
    builder: StepBuilder, desc: PrimitiveDesc, memories: Mapping[int, Source], target: Operand
) -> None:
    """Add a primitive. Raises Unprepared rather than take a reference implementation."""
    if not is_usable(desc, math.prod(target.desc.dims)):
        raise Unprepared(f"oneDNN has no fast {desc}")
    builder.execute(desc, memories)


@dataclass(frozen=True, slots=True)
class Strided:
    """Dims and strides, in elements, of an operand."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]

    def exchanged(self, first: int, second: int) -> Strided:
        """With two axes exchanged."""
        dims, strides = list(self.dims), list(self.strides)
        dims[first], dims[second] = dims[second], dims[first]
        strides[first], strides[second] = strides[second], strides[first]
        return Strided(tuple(dims), tuple(strides))

    def split(self, axis: int, count: int) -> Strided:
        """With an axis split in two, the first of ``count``."""
        at = axis % len(self.dims)
        inner = self.dims[at] // count
        return Strided(
            (*self.dims[:at], count, inner, *self.dims[at + 1 :]),
            (*self.strides[:at], self.strides[at] * inner, *self.strides[at:]),
        )


@dataclass(frozen=True, slots=True)
class AttentionShapes:
    """What the matmuls see, all of one rank: grouped heads get an axis of their own."""

    q: Strided
    k: Strided
    v: Strided
    y: Strided
    scores: tuple[int, ...]
    mask: tuple[int, ...]


def attention_shapes(spec: LayerSpec) -> AttentionShapes:
    """The dims and strides of all operands; k is transposed by its strides."""
    kind = _kind(spec)
    rank = spec.outputs[0].rank
    flags = (*kind.inputs_heads_last, kind.output_heads_last)
    q, k, v, y = (
        _heads_first(aligned_shape(tensor.shape, rank), is_last)
        for tensor, is_last in zip((*spec.inputs[:3], spec.outputs[0]), flags, strict=True)
    )
    given = aligned_shape(spec.inputs[3].shape, rank) if kind.has_mask else (1,) * rank
    mask = Strided(given, onednn.layout.row_major_strides(given))
    if kind.is_grouped:
        heads = max(k.dims[-3], v.dims[-3])
        q, y = q.split(-3, heads), y.split(-3, heads)
        k, v = k.split(-3, k.dims[-3]), v.split(-3, v.dims[-3])
        mask = mask.split(-3, heads if mask.dims[-3] > 1 else 1)
    return AttentionShapes(
        q=q, k=k.exchanged(-1, -2), v=v, y=y, scores=(*y.dims[:-1], k.dims[-2]), mask=mask.dims
    )


def _heads_first(shape: tuple[int, ...], is_last: bool) -> Strided:
    """A stored shape as [*, heads, rows, features]."""
    stored = Strided(shape, onednn.layout.row_major_strides(shape))
    return stored.exchanged(-2, -3) if is_last else stored


def _kind(spec: LayerSpec) -> Attention:
    if not isinstance(spec.kind, Attention):
        raise Unprepared(f"{spec.kind.name} is not attention")
    return spec.kind
