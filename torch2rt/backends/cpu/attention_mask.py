"""Masks of attention as oneDNN operands: what to add to scores, what to multiply shares by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type
from torch2rt.backends.cpu.onednn import Algorithm, Arg, Attributes, DataType, Eltwise, MemoryDesc
from torch2rt.backends.cpu.steps import ArrayOperand, Operand, Source, StepBuilder
from torch2rt.backends.spec import TensorSpec
from torch2rt.backends.tactic import Unprepared
from torch2rt.layers.attention import Attention
from torch2rt.network.dtype import Array, DType

# What hides a key: finite, so that a query with every key hidden stays finite and can be zeroed.
HIDDEN = -1e30
_MASK = 3  # the mask's place among the inputs
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class Spread:
    """Zeros and ones that can be had in the shape ``dims`` or any it broadcasts to."""

    dims: tuple[int, ...]
    spread: Callable[[tuple[int, ...]], Source]


@dataclass
class AttentionMask:
    """The mask of an attention layer, ready for its primitives.

    ``addend`` is added to the scores: zero for keys a query sees. ``lowest`` is what scores are
    then raised to, because the addend may be minus infinity. ``visible`` are factors of the
    shares, zero where a query sees no key at all; none when it is known that all see one.
    ``dims`` and ``scores`` are the shapes of mask and scores, of one rank.
    """

    builder: StepBuilder
    kind: Attention
    dims: tuple[int, ...]
    scores: tuple[int, ...]
    addend: Source | None = None
    lowest: float | None = None
    visible: list[Spread] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.kind.is_causal:
            self._use_causal()
        elif self.kind.has_mask and self.builder.spec.constants[_MASK] is not None:
            self._use_constant()
        elif self.kind.has_mask:
            self._use_given()

    @property
    def _is_per_query(self) -> bool:
        """Whether the mask has one value for all keys: it then shifts all scores of a query."""
        return self.dims[-1] == 1 < self.scores[-1]

    def _use_causal(self) -> None:
        rows, columns = self.scores[-2:]
        hidden = np.arange(columns) > np.arange(rows)[:, None]
        dims = (1,) * (len(self.scores) - 2) + (rows, columns)
        array = np.where(hidden, np.float32(HIDDEN), np.float32(0)).reshape(dims)
        desc = MemoryDesc.plain(dims, DataType.f32)
        self.addend = self.builder.literal(("causal", rows, columns), array, desc)

    def _use_constant(self) -> None:
        """Do now what `_use_given` leaves to each run."""
        builder = self.builder
        name = builder.spec.constants[_MASK]
        assert name is not None
        added = _as_addend(builder.weights.array(name), builder.spec.inputs[_MASK].dtype)
        added = added.reshape(self.dims)
        seen = (added > -np.inf).any(-1, keepdims=True)
        if not self._is_per_query:
            desc = MemoryDesc.plain(self.dims, DataType.f32)
            array = np.maximum(added, np.float32(HIDDEN))
            self.addend = builder.literal(("mask", name), array, desc)
        if not seen.all():
            numbers = seen.astype(np.float32)

            def literal(dims: tuple[int, ...]) -> Source:
                array = np.ascontiguousarray(np.broadcast_to(numbers, dims))
                desc = MemoryDesc.plain(dims, DataType.f32)
                return builder.literal(("seen", name, dims), array, desc)

            self.visible.append(Spread(self._spread_dims, literal))

    @property
    def _spread_dims(self) -> tuple[int, ...]:
        """The mask's dims with its last axis that of the scores."""
        return (*self.dims[:-1], self.scores[-1])

    def _use_given(self) -> None:
        builder, dims = self.builder, self.dims
        dtype = builder.spec.inputs[_MASK].dtype
        element = data_type(dtype)
        if element is None:
            raise Unprepared(f"oneDNN has no {dtype.value}")
        given = builder.input(_MASK, MemoryDesc.plain(dims, element))
        ones = self._ones(given, dtype)
        self.visible.append(Spread(self._spread_dims, partial(self._stretched, ones)))
        if self._is_per_query:
            return
        if dtype is not DType.BOOL:
            self.addend, self.lowest = given, HIDDEN
            return
        wide = MemoryDesc.plain(dims, DataType.f32)
        self.addend = builder.temporary(wide)
        # (mask - 1) * 1e30: nothing where it is true.
        one = builder.scalar(1.0, len(dims))
        attributes = Attributes([Eltwise(Algorithm.linear, -HIDDEN)])
        desc = onednn.binary(Algorithm.sub, given.desc, one.desc, wide, attributes=attributes)
        builder.execute(desc, {Arg.src: given, Arg.src_1: one, Arg.dst: self.addend})

    def _ones(self, given: Source, dtype: DType) -> Source:
        """1 where a key is seen, 0 where it is hidden.

        Shares of hidden keys are zero anyway, unless all keys of the query are hidden.
        """
        if dtype is DType.BOOL:
            return given
        builder = self.builder
        ones = builder.temporary(MemoryDesc.plain(self.dims, DataType.f32))
        bound = builder.scalar(_LOWEST, len(self.dims))
        desc = onednn.binary(Algorithm.ge, given.desc, bound.desc, ones.desc)
        builder.execute(desc, {Arg.src: given, Arg.src_1: bound, Arg.dst: ones})
        return ones

    def _stretched(self, source: Source, dims: tuple[int, ...]) -> Source:
        """A source repeated along axes of size 1 until it has ``dims``."""
        if source.desc.dims == dims:
            return source
        if not isinstance(source, Operand):
            raise Unprepared("a constant mask was taken for one given at run time")
        dtype = DType.BOOL if source.desc.data_type is DataType.u8 else DType.FLOAT32
        target = self.builder.temporary(MemoryDesc.plain(dims, source.desc.data_type))
        self.builder.copy(
            ArrayOperand(target.place, TensorSpec(dims, dtype)),
            ArrayOperand(source.place, TensorSpec(source.desc.dims, dtype)),
        )
        return target


def _as_addend(mask: Array, dtype: DType) -> Array:
    """A mask's data as f32 numbers to add: minus infinity hides."""
    if dtype is DType.BOOL:
        return np.where(mask, np.float32(0), np.float32(-np.inf))
    if dtype is DType.BFLOAT16:
        return (mask.astype(np.uint32) << 16).view(np.float32)
    return mask.astype(np.float32)
