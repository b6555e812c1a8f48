"""Attention by oneDNN: scores, softmax, mix; the scores stay in the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import aligned_shape
from torch2rt.backends.cpu.epilogue import Fusion, add_fused
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

# What hides a key: finite, so that a query with every key hidden stays finite and can be zeroed.
HIDDEN = -1e30
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
            builder.input(index, MemoryDesc.plain(dims, element, strides))
            for index, (dims, strides) in enumerate((shapes.q, shapes.k, shapes.v))
        )
        mask = _Mask(builder, shapes)
        scores = builder.temporary(MemoryDesc.plain(shapes.scores, DataType.f32))
        post_ops: list[PostOp] = [Eltwise(Algorithm.linear, _kind(spec).scale)]
        memories: dict[int, Source] = {Arg.src: q, Arg.weights: k, Arg.dst: scores}
        for addend in mask.addends:
            memories[post_op_arg(len(post_ops))] = addend
            post_ops.append(Binary(Algorithm.add, addend.desc))
        if mask.alive is not None:
            post_ops.append(Eltwise(Algorithm.clip_v2, HIDDEN, float("inf")))
        desc = onednn.matmul(q.desc, k.desc, None, scores.desc, attributes=Attributes(post_ops))
        builder.execute(desc, memories)
        shares = _add_softmax(builder, scores, element)
        _add_mix(builder, shares, v, mask.alive, shapes)
        return builder.finish()


def _add_softmax(builder: StepBuilder, scores: Operand, element: DataType) -> Operand:
    """Softmax of the scores over the keys, in the dtype of the values."""
    shares = scores
    if element is not DataType.f32:
        shares = builder.temporary(MemoryDesc.plain(scores.desc.dims, element))
    axis = len(scores.desc.dims) - 1
    desc = onednn.softmax(scores.desc, shares.desc, axis)
    builder.execute(desc, {Arg.src: scores, Arg.dst: shares})
    return shares


def _add_mix(
    builder: StepBuilder, shares: Operand, v: Source, alive: Source | None, shapes: AttentionShapes
) -> None:
    """The mean of the values by their shares; zero for queries with every key hidden."""
    spec = builder.spec
    first: list[PostOp] = []
    memories: dict[int, Source] = {Arg.src: shares, Arg.weights: v}
    if alive is not None and _is_row_per_query(alive):
        # No matmul of oneDNN takes an operand of one value per row.
        desc = onednn.binary(Algorithm.mul, shares.desc, alive.desc, shares.desc)
        builder.execute(desc, {Arg.src: shares, Arg.src_1: alive, Arg.dst: shares})
    elif alive is not None:
        first.append(Binary(Algorithm.mul, alive.desc))
        memories[post_op_arg(0)] = alive

    def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
        together = Attributes([*first, *attributes.post_ops])
        return onednn.matmul(shares.desc, v.desc, None, dst, attributes=together)

    output = MemoryDesc.plain(shapes.y, data_type_of_output(spec))
    add_fused(builder, Fusion(make, lambda desc: memories, can_sum=False, output=output))


def _is_row_per_query(alive: Source) -> bool:
    return alive.desc.dims[-2] > 1


@dataclass(frozen=True, slots=True)
class AttentionShapes:
    """Dims, or (dims, strides), that the matmuls see: grouped heads get an axis of their own."""

    q: tuple[tuple[int, ...], tuple[int, ...]]
    k: tuple[tuple[int, ...], tuple[int, ...]]
    v: tuple[tuple[int, ...], tuple[int, ...]]
    scores: tuple[int, ...]
    y: tuple[int, ...]
    mask: tuple[int, ...]


def attention_shapes(spec: LayerSpec) -> AttentionShapes:
    """The dims of all operands with one rank; k is transposed by its strides."""
    kind = _kind(spec)
    rank = spec.outputs[0].rank
    q, k, v, y = (
        aligned_shape(tensor.shape, rank) for tensor in (*spec.inputs[:3], spec.outputs[0])
    )
    mask = aligned_shape(spec.inputs[3].shape, rank) if kind.has_mask else (1,) * rank
    if kind.is_grouped:
        heads = max(k[-3], v[-3])
        q, y = _split_heads(q, heads), _split_heads(y, heads)
        k, v = (*k[:-2], 1, *k[-2:]), (*v[:-2], 1, *v[-2:])
        mask = _split_heads(mask, heads) if mask[-3] > 1 else (*mask[:-2], 1, *mask[-2:])
    row_major = onednn.layout.row_major_strides
    k_strides = row_major(k)
    return AttentionShapes(
        q=(q, row_major(q)),
        k=((*k[:-2], k[-1], k[-2]), (*k_strides[:-2], k_strides[-1], k_strides[-2])),
        v=(v, row_major(v)),
        scores=(*y[:-1], k[-2]), y=y, mask=mask,
    )


def _split_heads(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
    return (*shape[:-3], heads, shape[-3] // heads, *shape[-2:])


class _Mask:
    """What is added to the scores, and 1 per query that sees a key (None: all do)."""

    def __init__(self, builder: StepBuilder, shapes: AttentionShapes) -> None:
        self.builder = builder
        self.shapes = shapes
        self.addends: list[Source] = []
        self.alive: Source | None = None
        kind = _kind(builder.spec)
        if kind.is_causal:
            self.addends.append(self._causal())
        if kind.has_mask:
            self._add_given()

    def _causal(self) -> Source:
        rows, columns = self.shapes.scores[-2:]
        hidden = np.arange(columns) > np.arange(rows)[:, None]
        dims = (1,) * (len(self.shapes.scores) - 2) + (rows, columns)
        array = np.where(hidden, np.float32(HIDDEN), np.float32(0)).reshape(dims)
        desc = MemoryDesc.plain(dims, DataType.f32)
        return self.builder.literal(("causal", rows, columns), array, desc)

    def _add_given(self) -> None:
        builder, dims = self.builder, self.shapes.mask
        spec = builder.spec.inputs[3]
        wide = MemoryDesc.plain(dims, DataType.f32)
        if spec.dtype is DType.BOOL:
            given = builder.input(3, MemoryDesc.plain(dims, DataType.u8))
            addend: Source = builder.temporary(wide)
            # (mask - 1) * 1e30: nothing where it is true.
            desc = onednn.binary(
                Algorithm.sub, given.desc, builder.scalar(1.0, len(dims)).desc, wide,
                attributes=Attributes([Eltwise(Algorithm.linear, -HIDDEN)]),
            )
            builder.execute(desc, {
                Arg.src: given, Arg.src_1: builder.scalar(1.0, len(dims)), Arg.dst: addend,
            })
        else:
            element = onednn.DataType.f32 if spec.dtype is DType.FLOAT32 else element_of(spec.dtype)
            addend = builder.input(3, MemoryDesc.plain(dims, element))
        self.addends.append(addend)
        self.alive = self._alive(addend)

    def _alive(self, addend: Source) -> Source:
        builder, dims = self.builder, self.shapes.mask
        alive = builder.temporary(MemoryDesc.plain((*dims[:-1], 1), DataType.f32))
        bound = builder.scalar(HIDDEN / 10, len(dims))
        if dims[-1] == 1:
            desc = onednn.binary(Algorithm.ge, addend.desc, bound.desc, alive.desc)
            builder.execute(desc, {Arg.src: addend, Arg.src_1: bound, Arg.dst: alive})
            return alive
        desc = onednn.reduction(
            Algorithm.reduction_max, addend.desc, alive.desc,
            attributes=Attributes([Binary(Algorithm.ge, bound.desc)]),
        )
        builder.execute(desc, {Arg.src: addend, Arg.dst: alive, post_op_arg(0): bound})
        return alive


def element_of(dtype: DType) -> DataType:
    """OneDNN's type of a low-precision float."""
    return DataType.bf16 if dtype is DType.BFLOAT16 else DataType.f16


def _kind(spec: LayerSpec) -> Attention:
    if not isinstance(spec.kind, Attention):
        raise Unprepared(f"{spec.kind.name} is not attention")
    return spec.kind
