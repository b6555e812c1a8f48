"""Convolution by oneDNN: one primitive, weights packed as it likes, the epilogue as post-ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type
from torch2rt.backends.cpu.epilogue import Fusion, add_fused, choice
from torch2rt.backends.cpu.layouts import blocked_layout, is_supported_contraction
from torch2rt.backends.cpu.onednn import Arg, Attributes, MemoryDesc, PrimitiveDesc
from torch2rt.backends.cpu.quantized import is_quantized
from torch2rt.backends.cpu.steps import Source, StepBuilder
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.convolution import Convolution

# An image with this few channels is read as it comes: blocking would be mostly padding.
MAX_STEM_CHANNELS = 4


class DirectConvolution(Tactic):
    """The implementation that oneDNN prefers."""

    name: ClassVar[str] = "convolution.onednn.direct"
    kinds: ClassVar[tuple[str, ...]] = ("convolution",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Floats that the CPU computes in, or bytes; one to three spatial axes."""
        return is_supported_contraction(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last, blocked but for bytes, and for few input channels also row-major input."""
        weight = Layout.PLAIN
        last, blocked = Layout.CHANNELS_LAST, blocked_layout()
        pairs = [(last, last)] if is_quantized(spec) else [(last, last), (blocked, blocked)]
        if spec.inputs[0].shape[1] <= MAX_STEM_CHANNELS and not is_quantized(spec):
            pairs = [
                (source, target)
                for source in (Layout.PLAIN, last) for target in (last, blocked)
            ]
        return [choice(spec, (source, weight), target) for source, target in pairs]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Create the primitive and pack the weights."""
        builder = StepBuilder(spec, weights)
        source = builder.input(0)
        dims = weight_dims(spec)
        element = data_type(spec.inputs[1].dtype)
        if element is None:
            raise Unprepared(f"oneDNN has no {spec.inputs[1].dtype.value}")
        any_weights = MemoryDesc.any(dims, element)

        def make(bias: MemoryDesc | None, dst: MemoryDesc, attributes: Attributes) -> PrimitiveDesc:
            desc = convolution_desc(spec, source.desc, any_weights, bias, dst, attributes)
            return self.chosen(desc)

        def operands(desc: PrimitiveDesc) -> dict[int, Source]:
            return {Arg.src: source, Arg.weights: weight_source(builder, desc.weights)}

        add_fused(builder, Fusion(
            make, operands, channel_axis=1, weight_scale_mask=1 if _kind(spec).groups == 1 else 3,
        ))
        return builder.finish()

    def chosen(self, desc: PrimitiveDesc) -> PrimitiveDesc:
        """The implementation to use, given oneDNN's favourite."""
        return desc


def weight_dims(spec: LayerSpec) -> tuple[int, ...]:
    """OneDNN's dims of the weights: [groups,] k, c, kernel."""
    shape = spec.inputs[1].shape
    groups = _kind(spec).groups
    return shape if groups == 1 else (groups, shape[0] // groups, *shape[1:])


def weight_source(builder: StepBuilder, wanted: MemoryDesc) -> Source:
    """The weights in the layout a primitive wants: packed now, or converted at every run."""
    if builder.spec.constants[1] is not None:
        return builder.constant(1, wanted)
    given = MemoryDesc.plain(wanted.dims, wanted.data_type)
    return builder.converted(builder.input(1, given), wanted)


def convolution_desc(
    spec: LayerSpec, src: MemoryDesc, weights: MemoryDesc, bias: MemoryDesc | None,
    dst: MemoryDesc, attributes: Attributes,
) -> PrimitiveDesc:
    """OneDNN's favourite implementation of a convolution layer."""
    kind = _kind(spec)
    return onednn.convolution(
        src, weights, bias, dst, strides=kind.stride, padding_l=kind.padding_before,
        padding_r=kind.padding_after, dilations=kind.dilation, attributes=attributes,
    )


def _kind(spec: LayerSpec) -> Convolution:
    if not isinstance(spec.kind, Convolution):
        raise Unprepared(f"{spec.kind.name} is not a convolution")
    return spec.kind
