"""Attention reads query, key and value where one matmul has left them side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch2rt.fusions.axis_map import AxisMap, Part, trace
from torch2rt.fusions.base import Fusion
from torch2rt.fusions.rewrite import merged_origins, remove_if_unused
from torch2rt.layers.attention import Attention
from torch2rt.layers.reshape import Reshape, reshape_target
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose
from torch2rt.network.layer import Layer, Origin
from torch2rt.network.network import Network
from torch2rt.network.tensor import Tensor
from torch2rt.passes.base import Reject

_FLAGS = ("query_heads_last", "key_heads_last", "value_heads_last")


@dataclass(frozen=True)
class Heads:
    """One operand: heads of ``size`` features from ``offset`` of the last axis of its base."""

    base: Tensor
    batch_axis: int
    row_axis: int
    heads: int
    size: int
    offset: int


@dataclass(frozen=True)
class PackedOperands:
    """The three operands, and the layers that rearranged each."""

    attention: Layer
    operands: tuple[Heads, Heads, Heads]
    chains: tuple[tuple[Layer, ...], ...]


class PackedAttention(Fusion[PackedOperands]):
    """Read heads by slices of a packed projection, without moving them.

    Before: %p = matmul(%x, @w) [l,b,3*h*e]   then reshapes, transposes and slices of %p to
            %q, %k, %v [b,h,l,e]   %a = attention(%q, %k, %v)
    After:  %t = transpose(%p) [b,l,3*h*e]   %r = reshape(%t) [b,l,3*h,e]
            %q = slice(%r) [b,l,h,e], and %k, %v   %a = attention(%q, %k, %v) with heads last
    Fires when every operand, followed through its rearrangements, is a run of heads in the last
    axis of a tensor of three axes, and that takes fewer layers. Without the sequence first, there
    is no transpose.
    Refuses operands that mix other axes, such as windows.
    """

    name: ClassVar[str] = "packed_attention"
    equation: ClassVar[str] = "attention(rearranged(x)...) = attention(slices of x...)"
    priority: ClassVar[int] = 63

    def match(self, network: Network, layer: Layer) -> PackedOperands | None:
        """An attention layer whose three operands are rearrangements of tensors of three axes."""
        if not isinstance(layer.kind, Attention) or layer.kind.is_grouped:
            return None
        operands, chains = [], []
        for index in range(3):
            found, chain = trace(layer.inputs[index])
            heads = _heads_of(found, layer.kind.inputs_heads_last[index])
            if heads is None:
                return None
            operands.append(heads)
            chains.append(chain)
        return PackedOperands(layer, (operands[0], operands[1], operands[2]), tuple(chains))

    def check(self, network: Network, match: PackedOperands) -> Reject | None:
        """Fewer layers than before, or transposes that go away."""
        before = {layer for chain in match.chains for layer in chain}
        moved = sum(isinstance(layer.kind, Transpose) for layer in before)
        turned = len({heads.base for heads in match.operands if heads.batch_axis != 0})
        reshaped = len({(heads.base, heads.size) for heads in match.operands})
        slices = sum(not _is_whole(heads) for heads in match.operands)
        after = turned + reshaped + slices
        if (turned, after) >= (moved, len(before)):
            return Reject(
                "its operands are rearranged no more than they must be", match.attention.name
            )
        return None

    def rewrite(self, network: Network, match: PackedOperands) -> Layer:
        """Slices and reshapes of the bases; the flags of heads last."""
        attention = match.attention
        assert isinstance(attention.kind, Attention)
        cut: dict[tuple[Tensor, int], Tensor] = {}
        inputs = list(attention.inputs)
        for index, heads in enumerate(match.operands):
            key = (heads.base, heads.size)
            origins = merged_origins(*reversed(match.chains[index])) or attention.origins
            if key not in cut:
                cut[key] = _cut_into_heads(network, attention, heads, origins)
            inputs[index] = _operand(network, attention, cut[key], heads, origins)
        kind = dataclasses.replace(attention.kind, **dict.fromkeys(_FLAGS, True))
        network.set_kind(attention, kind)
        network.set_inputs(attention, tuple(inputs))
        chained = [layer for chain in match.chains for layer in chain]
        network.set_origins(attention, merged_origins(*reversed(chained), attention))
        for chain in match.chains:
            for layer in chain:
                remove_if_unused(network, layer)
        return attention


def _cut_into_heads(
    network: Network, attention: Layer, heads: Heads, origins: tuple[Origin, ...]
) -> Tensor:
    """The base as [b, l, all heads, e]."""
    base = heads.base
    if heads.batch_axis != 0:
        base = network.add(
            Transpose((1, 0, 2)), (base,), before=attention, name=f"{base.name}.batch_first",
            origins=origins,
        ).output
    width = base.shape[2]
    assert isinstance(width, int)
    shape = (*base.shape[:2], width // heads.size, heads.size)
    return network.add(
        Reshape(reshape_target(base.shape, shape)), (base,), before=attention,
        name=f"{attention.name}.heads", origins=origins,
    ).output


def _operand(
    network: Network, attention: Layer, cut: Tensor, heads: Heads, origins: tuple[Origin, ...]
) -> Tensor:
    """The heads of one operand."""
    if _is_whole(heads):
        return cut
    starts = (0, 0, heads.offset // heads.size, 0)
    sizes = (*cut.shape[:2], heads.heads, heads.size)
    return network.add(
        Slice(starts, sizes, (1, 1, 1, 1)), (cut,), before=attention,
        name=f"{attention.name}.part", origins=origins,
    ).output


def _is_whole(heads: Heads) -> bool:
    return heads.base.shape[2] == heads.heads * heads.size


def _heads_of(found: AxisMap, is_heads_last: bool) -> Heads | None:
    """The map [b,h,l,e] (or [b,l,h,e]) as heads of a base [b,l,c] or [l,b,c]; None if it is not."""
    base = found.base
    if base.rank != 3 or len(found.axes) != 4 or not isinstance(base.shape[2], int):
        return None
    batch, heads, rows, features = found.axes
    if is_heads_last:
        heads, rows = rows, heads
    if any(found.offsets[:2]) or len(heads) > 1 or len(features) != 1:
        return None
    inner = features[0]
    if inner.axis != 2 or inner.step != 1 or not isinstance(inner.size, int):
        return None
    count = heads[0].size if heads else 1
    if not isinstance(count, int) or (heads and (heads[0].axis, heads[0].step) != (2, inner.size)):
        return None
    axes = _outer_axes(base, batch, rows)
    if axes is None or base.shape[2] % inner.size or found.offsets[2] % inner.size:
        return None
    return Heads(base, axes[0], axes[1], count, inner.size, found.offsets[2])


def _outer_axes(
    base: Tensor, batch: tuple[Part, ...], rows: tuple[Part, ...]
) -> tuple[int, int] | None:
    """Which of the base's axes 0 and 1 are the batch and the rows; None unless each is whole."""
    for batch_axis, row_axis in ((0, 1), (1, 0)):
        wanted = [
            () if base.shape[axis] == 1 else (Part(axis, base.shape[axis], 1),)
            for axis in (batch_axis, row_axis)
        ]
        if [batch, rows] == wanted:
            return batch_axis, row_axis
    return None
