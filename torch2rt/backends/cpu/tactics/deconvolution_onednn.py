"""Transposed convolution by oneDNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.epilogue import Fusion, add_fused, choice
from torch2rt.backends.cpu.layouts import blocked_layout, is_supported_float
from torch2rt.backends.cpu.onednn import Arg, Attributes, MemoryDesc, PrimitiveDesc
from torch2rt.backends.cpu.steps import Source, StepBuilder
from torch2rt.backends.cpu.tactics.matmul_onednn import element_type
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.network.dtype import Array


class DirectDeconvolution(Tactic):
    """One deconvolution primitive with packed weights."""

    name: ClassVar[str] = "deconvolution.onednn.direct"
    kinds: ClassVar[tuple[str, ...]] = ("deconvolution",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats that the CPU computes in, constant weights."""
        if spec.constants[1] is None:
            return Refusal("the weights are not a constant")
        return is_supported_float(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last and blocked."""
        pair = (Layout.CHANNELS_LAST, blocked_layout())
        return [choice(spec, (layout, Layout.PLAIN), layout) for layout in pair]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive and pack the weights."""
        builder = StepBuilder(spec, weights)
        kind = spec.kind
        if not isinstance(kind, Deconvolution):
            raise Unprepared(f"{kind.name} is not a deconvolution")
        source = builder.input(0)
        c, k, *kernel = spec.inputs[1].shape
        groups = kind.groups
        dims = (k, c, *kernel) if groups == 1 else (groups, k, c // groups, *kernel)
        asked = MemoryDesc.any(dims, element_type(spec))

        def view(array: Array) -> Array:
            """[c, k/groups, ...] as [groups, k/groups, c/groups, ...]."""
            split = array.reshape(groups, c // groups, k, *kernel).swapaxes(1, 2)
            return split[0] if groups == 1 else split

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            return onednn.deconvolution(
                source.desc, asked, bias, dst, strides=kind.stride,
                padding_l=kind.padding_before, padding_r=kind.padding_after,
                dilations=kind.dilation, attributes=attributes,
            )

        def operands(desc: PrimitiveDesc) -> dict[int, Source]:
            packed = builder.constant(1, desc.weights, view, f"deconvolution {groups}")
            return {Arg.src: source, Arg.weights: packed}

        add_fused(builder, Fusion(make, operands, channel_axis=1))
        return builder.finish()
