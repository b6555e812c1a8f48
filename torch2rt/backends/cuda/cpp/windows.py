"""Pads and rolls: outputs whose places are looked up axis by axis in the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch2rt.backends.buffer import VECTOR_BYTES
from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.moves import flat_launch
from torch2rt.backends.cuda.launch import I32, I64, Argument, KernelPrepared, Out
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Weights
from torch2rt.kernels.cuda import pad as pad_kernel


@dataclass(frozen=True, slots=True)
class WindowAxis:
    """Output position p is input position p - before; strides count elements."""

    size: int
    before: int
    length: int
    origin: int
    to: int

    @property
    def is_whole(self) -> bool:
        """Whether the output has just the input's elements, in order."""
        return self.before == 0 and self.size == self.length


def window(
    spec: LayerSpec, weights: Weights, before: Sequence[int], mode: str, value: int = 0
) -> KernelPrepared:
    """The launch that fills the output; ``value`` is the pattern of 8 bytes of the constant."""
    axes = _merged(spec, before)
    item = spec.outputs[0].dtype.itemsize_bytes
    vector = _vector(axes, VECTOR_BYTES // item)
    if vector > 1:
        *outer, inner = axes
        axes = [
            WindowAxis(a.size, a.before, a.length, a.origin // vector, a.to // vector)
            for a in outer
        ]
        axes.append(WindowAxis(inner.size // vector, 0, inner.length // vector, 1, 1))
    total = math.prod(axis.size for axis in axes)
    columns = (
        [axis.size for axis in axes], [axis.before for axis in axes],
        [axis.length for axis in axes], [axis.origin for axis in axes], [axis.to for axis in axes],
    )
    arguments: list[Argument] = [operand(spec, weights, 0), Out(0), I32(total), I64(value)]
    arguments += [I32(number) for column in columns for number in column]
    source = pad_kernel.pad_source(item * vector, len(axes), mode)
    return KernelPrepared([
        flat_launch(weights, pad_kernel.NAME, source, pad_kernel.THREADS, total, arguments)
    ])


def _merged(spec: LayerSpec, before: Sequence[int]) -> list[WindowAxis]:
    """The axes in the order of the output's memory; whole neighbours that lie together are one."""
    source, target = spec.inputs[0], spec.outputs[0]
    merged: list[WindowAxis] = []
    for i in target.memory_order:
        axis = WindowAxis(
            target.shape[i], before[i], source.shape[i], source.strides[i], target.strides[i]
        )
        if axis.size == 1 and axis.is_whole:
            continue
        outer = merged[-1] if merged else None
        if outer is not None and outer.is_whole and axis.is_whole and (
            outer.origin == axis.origin * axis.size and outer.to == axis.to * axis.size
        ):
            size = outer.size * axis.size
            merged[-1] = WindowAxis(size, 0, size, axis.origin, axis.to)
        else:
            merged.append(axis)
    return merged or [WindowAxis(1, 0, 1, 1, 1)]


def _vector(axes: Sequence[WindowAxis], limit: int) -> int:
    inner = axes[-1]
    if not inner.is_whole or inner.origin != 1 or inner.to != 1:
        return 1
    strides = [stride for axis in axes[:-1] for stride in (axis.origin, axis.to)]
    return math.gcd(limit, inner.size, *strides)
