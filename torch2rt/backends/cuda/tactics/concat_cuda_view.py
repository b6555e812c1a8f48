"""Concats that move nothing: the inputs are written straight into the output's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.buffer import VECTOR_BYTES
from torch2rt.backends.cuda.cpp.moves import same_layouts
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, View, Weights
from torch2rt.backends.views import Part, ViewsPrepared, pitched_part
from torch2rt.layers.concat import Concat


class ConcatView(Tactic):
    """Every input is a part of the output's memory: dense, or runs that are evenly apart."""

    name: ClassVar[str] = "concat.cuda.view"
    kinds: ClassVar[tuple[str, ...]] = ("concat",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """No constant inputs, and some layout in which all runs are aligned."""
        if spec.epilogue is not None or any(name is not None for name in spec.constants):
            return Refusal("there is something to compute or a constant to copy")
        return None if self.layouts(spec) else Refusal("the inputs would not be aligned runs")

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Layouts in which each input is made of aligned runs."""
        return [c for c in same_layouts(spec) if _parts(spec.with_layouts(c)) is not None]

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Where the parts of a pitched output are such runs as well."""
        return _parts(spec) is not None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One view per input."""
        parts = _parts(spec)
        if parts is None:
            raise Unprepared("the inputs would not be aligned runs")
        return ViewsPrepared(tuple(
            View(("input", index), ("output", 0), part.offset_bytes, part.run, part.pitch)
            for index, part in enumerate(parts)
        ))


def _parts(spec: LayerSpec) -> list[Part] | None:
    axis = kind_of(spec, Concat).axis
    output = spec.outputs[0]
    parts, start = [], 0
    for tensor in spec.inputs:
        starts = [start if other == axis else 0 for other in range(tensor.rank)]
        part = pitched_part(output, starts, tensor.shape, (1,) * tensor.rank)
        if part is None or not part.is_aligned(output.dtype.itemsize_bytes, VECTOR_BYTES):
            return None
        parts.append(part)
        start += tensor.shape[axis]
    return parts
