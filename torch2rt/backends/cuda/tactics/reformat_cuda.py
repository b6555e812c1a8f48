"""Reformats by our kernels: casts and copies in vectors, changes of layout through tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.elementwise import cpp_refusal
from torch2rt.backends.cuda.cpp.transposed import prepare_transposed
from torch2rt.backends.cuda.tactics.pointwise_cuda_vector import PointwiseVector
from torch2rt.backends.spec import LayerSpec, LayoutChoice, canonical_layout
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class ReformatVector(PointwiseVector):
    """The same layout on both sides: another dtype, or dense instead of pitched."""

    name: ClassVar[str] = "reformat.cuda.vector"
    kinds: ClassVar[tuple[str, ...]] = ("reformat",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """One layout, no blocks."""
        if _has_blocks(spec):
            return Refusal("blocked layouts are the CPU's")
        if _turns(spec):
            return Refusal("the layouts differ")
        return cpp_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Those that the reformat is for."""
        return own_layouts(spec)


class ReformatTranspose(Tactic):
    """Row-major to channels-last or the reverse, with or without another dtype."""

    name: ClassVar[str] = "reformat.cuda.transpose"
    kinds: ClassVar[tuple[str, ...]] = ("reformat",)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Channels or images side by side; the kernel reads by strides."""
        return True

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Two layouts, no blocks."""
        if _has_blocks(spec):
            return Refusal("blocked layouts are the CPU's")
        if not _turns(spec):
            return Refusal("the layouts mean the same bytes")
        return cpp_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Those that the reformat is for."""
        return own_layouts(spec)

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Generate the kernel."""
        return prepare_transposed(spec, weights)


def own_layouts(spec: LayerSpec) -> Sequence[LayoutChoice]:
    """The layouts that the spec already has."""
    return (
        LayoutChoice(
            tuple(tensor.layout for tensor in spec.inputs),
            tuple(tensor.layout for tensor in spec.outputs),
        ),
    )


def _has_blocks(spec: LayerSpec) -> bool:
    return any(tensor.layout.block > 1 for tensor in (*spec.inputs, *spec.outputs))


def _turns(spec: LayerSpec) -> bool:
    return canonical_layout(spec.inputs[0]) is not canonical_layout(spec.outputs[0])
