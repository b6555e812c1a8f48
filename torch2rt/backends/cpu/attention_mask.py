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
    """A tensor that can be had in the shape ``dims`` or any it broadcasts to."""

    dims: tuple[int, ...]
    data_type: DataType
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
    addend: Spread | None = None
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
        self.addend = self._constant(("causal", rows, columns), array)

    def _use_constant(self) -> None:
        """Do now what `_use_given` leaves to each run."""
        builder = self.builder
        name = builder.spec.constants[_MASK]
        assert name is not None
        added = _as_addend(builder.weights.array(name), builder.spec.inputs[_MASK].dtype)
        added = added.reshape(self.dims)
        if not self._is_per_query:
            self.addend = self._constant(("mask", name), np.maximum(added, np.float32(HIDDEN)))
        seen = (added > -np.inf).any(-1, keepdims=True)
        if not seen.all():
            ones = np.broadcast_to(seen.astype(np.float32), self._spread_dims)
            self.visible.append(self._constant(("seen", name), ones))

    def _constant(self, key: tuple[str | int, ...], array: Array) -> Spread:
        def spread(dims: tuple[int, ...]) -> Source:
            numbers = np.ascontiguousarray(np.broadcast_to(array, dims))
            return self.builder.literal(key, numbers, MemoryDesc.plain(dims, DataType.f32))

        return Spread(array.shape, DataType.f32, spread)

    @property
    def _spread_dims(self) -> tuple[int, ...]:
        """The mask's dims with its last axis that of the scores."""
        return (*self.dims[:-1], self.scores[-1])

    def _use_given(self) -> None:
        builder = self.builder
        dtype = builder.spec.inputs[_MASK].dtype
        element = data_type(dtype)
        if element is None:
            raise Unprepared(f"oneDNN has no {dtype.value}")
        given = builder.input(_MASK, MemoryDesc.plain(self.dims, element))
        # Shares of hidden keys are zero anyway, unless all keys of the query are hidden.
        ones = given if dtype is DType.BOOL else self._computed(Algorithm.ge, given, _LOWEST)
        kept = DType.BOOL if dtype is DType.BOOL else DType.FLOAT32
        self.visible.append(self._spread(ones, kept, self._spread_dims))
        if self._is_per_query:
            return
        if dtype is not DType.BOOL:
            self.addend = self._spread(given, dtype, self.dims)
            self.lowest = HIDDEN
            return
        wide = builder.converted(given, MemoryDesc.plain(self.dims, DataType.f32))
        # (mask - 1) * 1e30: nothing where it is true.
        added = self._computed(Algorithm.sub, wide, 1.0, Eltwise(Algorithm.linear, -HIDDEN))
        self.addend = self._spread(added, DType.FLOAT32, self.dims)

    def _computed(
        self, algorithm: Algorithm, source: Source, value: float, *post_ops: Eltwise
    ) -> Source:
        """A function of the mask and a number, in f32."""
        builder = self.builder
        number = builder.scalar(value, len(self.dims))
        target = builder.temporary(MemoryDesc.plain(self.dims, DataType.f32))
        desc = onednn.binary(
            algorithm, source.desc, number.desc, target.desc, attributes=Attributes(post_ops)
        )
        builder.execute(desc, {Arg.src: source, Arg.src_1: number, Arg.dst: target})
        return target

    def _spread(self, source: Source, dtype: DType, dims: tuple[int, ...]) -> Spread:
        return Spread(dims, source.desc.data_type, partial(self._stretched, source, dtype))

    def _stretched(self, source: Source, dtype: DType, dims: tuple[int, ...]) -> Source:
        """A source repeated along axes of size 1 until it has ``dims``."""
        if source.desc.dims == dims:
            return source
        if not isinstance(source, Operand):
            raise Unprepared("a constant mask was taken for one given at run time")
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
