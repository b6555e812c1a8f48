"""Every way the convolution sweep knows to run one layer."""

from collections.abc import Iterator

from onednn_sweep_cases import Conv
from onednn_sweep_measure import Candidate

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.onednn import Algorithm, DataType, MemoryDesc

LAYOUTS = ("any", "acdb", "aBcd16b", "aBcd8b")
# Reference code, and code for less than AVX-512 where there is AVX-512: never the fastest of a
# layer in a first sweep of everything on the machine of the results.
NARROW = (":sse41", ":avx2")
ACTIVATIONS = {
    "relu": onednn.Eltwise(Algorithm.relu),
    "clip": onednn.Eltwise(Algorithm.clip_v2, 0.0, 6.0),
}


def post_ops(layer: Conv, residual: str, other: MemoryDesc | None) -> tuple[onednn.PostOp, ...]:
    """Residual (as "binary" or "sum"), then activation."""
    chain: list[onednn.PostOp] = []
    if layer.residual and residual == "sum":
        chain.append(onednn.Sum())
    elif layer.residual and other is not None:
        chain.append(onednn.Binary(Algorithm.add, other))
    if layer.activation:
        chain.append(ACTIVATIONS[layer.activation])
    return tuple(chain)


def conv_desc(
    layer: Conv, data_type: DataType, layout: str, residual: str = "binary"
) -> onednn.PrimitiveDesc:
    """The layer as a convolution with activations in `layout`."""
    out = (1, layer.filters, layer.out_size, layer.out_size)
    dst = MemoryDesc.tagged(out, data_type, layout)
    # A block of 16 for 3 channels would be waste: the stem's source is always chosen by oneDNN.
    source = "any" if layer.channels == 3 else layout
    kernel = (layer.filters, layer.channels // layer.groups, layer.kernel, layer.kernel)
    if layer.groups > 1:
        kernel = (layer.groups, layer.filters // layer.groups, *kernel[1:])
    return onednn.convolution(
        MemoryDesc.tagged((1, layer.channels, layer.size, layer.size), data_type, source),
        MemoryDesc.any(kernel, data_type),
        MemoryDesc.plain((layer.filters,), DataType.f32),
        dst,
        strides=[layer.stride] * 2,
        padding_l=[layer.padding] * 2,
        padding_r=[layer.padding] * 2,
        attributes=onednn.Attributes(post_ops(layer, residual, dst)),
    )


def product_descs(layer: Conv, data_type: DataType) -> Iterator[tuple[str, onednn.PrimitiveDesc]]:
    """A 1x1 convolution of stride 1 on channels-last activations is a matrix product."""
    rows = layer.size**2
    src = MemoryDesc.plain((rows, layer.channels), data_type)
    dst = MemoryDesc.plain((rows, layer.filters), data_type)
    attributes = onednn.Attributes(post_ops(layer, "binary", dst))
    wide = MemoryDesc.any((layer.channels, layer.filters), data_type)
    row = MemoryDesc.plain((1, layer.filters), DataType.f32)
    yield "matmul", onednn.matmul(src, wide, row, dst, attributes=attributes)
    tall = MemoryDesc.any((layer.filters, layer.channels), data_type)
    bias = MemoryDesc.plain((layer.filters,), DataType.f32)
    yield "inner_product", onednn.inner_product(src, tall, bias, dst, attributes=attributes)


def candidates(layer: Conv, data_type: DataType) -> Iterator[Candidate]:
    """Every way to run the layer that is not a reference implementation."""
    residuals = ("binary", "sum") if layer.residual else ("",)
    for layout in LAYOUTS:
        for residual in residuals:
            try:
                first = conv_desc(layer, data_type, layout, residual)
            except onednn.OneDNNUnsupported:
                continue
            variant = f"convolution {residual}".strip()
            for desc in first.implementations():
                if is_worthwhile(desc.implementation):
                    yield Candidate(variant, layout, desc)
    if layer.kernel == layer.stride == layer.groups == 1:
        for variant, first in product_descs(layer, data_type):
            for desc in first.implementations():
                if is_worthwhile(desc.implementation):
                    yield Candidate(variant, "acdb", desc)


def is_worthwhile(implementation: str) -> bool:
    """Whether an implementation may be the fastest."""
    if implementation.startswith("ref"):
        return False
    return not onednn.effective_isa().startswith("avx512") or not implementation.endswith(NARROW)


def fused_candidates(expand: Conv, depthwise: Conv, data_type: DataType) -> Iterator[Candidate]:
    """An expansion with the depthwise layer behind it as one primitive."""
    clip = ACTIVATIONS["clip"]
    fused = onednn.DepthwiseConvolution(
        data_type, DataType.f32, data_type, 3, depthwise.stride, depthwise.padding
    )
    for layout in LAYOUTS:
        dims = (1, expand.channels, expand.size, expand.size)
        try:
            first = onednn.convolution(
                MemoryDesc.tagged(dims, data_type, layout),
                MemoryDesc.any((expand.filters, expand.channels, 1, 1), data_type),
                MemoryDesc.plain((expand.filters,), DataType.f32),
                MemoryDesc.tagged((1, expand.filters, *dims[2:]), data_type, layout),
                strides=(1, 1),
                padding_l=(0, 0),
                padding_r=(0, 0),
                attributes=onednn.Attributes([clip, fused, clip]),
            )
        except onednn.OneDNNError:
            continue
        for desc in first.implementations():
            yield Candidate("with depthwise", layout, desc)
