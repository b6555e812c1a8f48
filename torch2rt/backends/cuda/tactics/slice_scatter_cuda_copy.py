"""Writing to a slice of a copy: two strided copies, one after the other."""

from __future__ import annotations

from typing import ClassVar

from torch2rt.backends.cuda.cpp.moves import Move, copy_launches, overwritable, part_of, whole_axes
from torch2rt.backends.cuda.launch import KernelPrepared
from torch2rt.backends.kinds import concrete, kind_of
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Weights
from torch2rt.kernels.cuda.strided import Axis
from torch2rt.layers.slice_scatter import SliceScatter


class SliceScatterCopy(Move):
    """The whole input, then the source over its part."""

    name: ClassVar[str] = "slice_scatter.cuda.copy"
    kinds: ClassVar[tuple[str, ...]] = ("slice_scatter",)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Two launches."""
        kind = kind_of(spec, SliceScatter)
        x, source = spec.inputs
        target = spec.outputs[0]
        whole = part_of(spec, weights, whole_axes(target, x))
        axes = [
            Axis(size, (to * step, origin))
            for size, to, step, origin in zip(
                source.shape, target.strides, kind.steps, source.strides, strict=True
            )
        ]
        start = sum(
            concrete(first) * stride
            for first, stride in zip(kind.starts, target.strides, strict=True)
        )
        part = part_of(spec, weights, axes, source=1, target_start=start)
        return KernelPrepared(
            [*copy_launches(weights, [whole]), *copy_launches(weights, [part])],
            may_overwrite=overwritable(spec),
        )
