"""Pointwise layers that change the layout on the way: a cast of the user's NCHW image to NHWC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.elementwise import cpp_refusal
from torch2rt.backends.cuda.cpp.transposed import prepare_transposed
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, canonical_layout
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights


class PointwiseTranspose(Tactic):
    """Through tiles in shared memory, both sides in vectors."""

    name: ClassVar[str] = "pointwise.cuda.transpose"
    kinds: ClassVar[tuple[str, ...]] = ("pointwise",)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Channels or images side by side; the kernel reads by strides."""
        return True

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """An image, and an operand of its shape that is no constant."""
        output = spec.outputs[0]
        as_image = output.with_layout(Layout.CHANNELS_LAST)
        if output.rank not in (3, 4, 5) or canonical_layout(as_image) is Layout.PLAIN:
            return Refusal("a tensor with one layout only")
        if not any(_is_turned(index, spec) for index in range(len(spec.inputs))):
            return Refusal("no operand has the whole shape of the result")
        return cpp_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Row-major to channels-last and the reverse."""
        return [
            LayoutChoice(
                tuple(
                    source if _is_turned(index, spec) else Layout.PLAIN
                    for index in range(len(spec.inputs))
                ),
                (target,),
            )
            for source, target in (
                (Layout.PLAIN, Layout.CHANNELS_LAST), (Layout.CHANNELS_LAST, Layout.PLAIN)
            )
        ]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Generate the kernel."""
        return prepare_transposed(spec, weights)


def _is_turned(index: int, spec: LayerSpec) -> bool:
    """Whether an operand may lie in another layout than the result."""
    return spec.constants[index] is None and spec.inputs[index].shape == spec.outputs[0].shape
