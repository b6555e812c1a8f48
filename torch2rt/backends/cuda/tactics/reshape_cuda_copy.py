"""Reshapes by a strided copy, where the output cannot be the input's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Copy, CopyMove, layout_pairs, part_of
from torch2rt.backends.spec import LayerSpec, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Unprepared, Weights
from torch2rt.kernels.cuda.strided import Axis


class ReshapeCopy(CopyMove):
    """Both shapes are cut into common axes, which a strided copy walks."""

    name: ClassVar[str] = "reshape.cuda.copy"
    kinds: ClassVar[tuple[str, ...]] = ("reshape",)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """All pairs for which there are common axes."""
        return [c for c in layout_pairs(spec) if _axes(spec.with_layouts(c)) is not None]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Where there are common axes."""
        return _axes(spec) is not None

    def copies(self, spec: LayerSpec, weights: Weights) -> Sequence[Copy]:
        """One."""
        axes = _axes(spec)
        if axes is None:
            raise Unprepared("the shapes have no common axes")
        return [part_of(spec, weights, axes)]


def _axes(spec: LayerSpec) -> list[Axis] | None:
    """Axes that both tensors have, each a part of one axis or several that lie together."""
    first, second = _pieces(spec.outputs[0]), _pieces(spec.inputs[0])
    axes = []
    while first and second:
        (to_size, to), (size, origin) = first.pop(), second.pop()
        common = min(to_size, size)
        if to_size % common or size % common:
            return None
        axes.append(Axis(common, (to, origin)))
        if to_size > common:
            first.append((to_size // common, to * common))
        if size > common:
            second.append((size // common, origin * common))
    return axes[::-1]


def _pieces(spec: TensorSpec) -> list[tuple[int, int]]:
    """Size and stride of the axes, outermost first; neighbours that lie together are one."""
    pieces: list[tuple[int, int]] = []
    for size, stride in zip(spec.shape, spec.strides, strict=True):
        if size == 1:
            continue
        if pieces and pieces[-1][1] == stride * size:
            pieces[-1] = (pieces[-1][0] * size, stride)
        else:
            pieces.append((size, stride))
    return pieces
