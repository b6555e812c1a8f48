"""Builders over spatial windows, in 1D, 2D and 3D: convolution, deconvolution, pooling, resampling.

Sources and results are (n, c, [d, [h,]] w). Per-axis options are outermost axis first.
"""

import ctypes
from collections.abc import Sequence

from torch2rt.backends.cpu.onednn.attributes import Attributes
from torch2rt.backends.cpu.onednn.constants import FORWARD_INFERENCE, Algorithm
from torch2rt.backends.cpu.onednn.create import create, pointer, spatial
from torch2rt.backends.cpu.onednn.memory import MemoryDesc, dims_array
from torch2rt.backends.cpu.onednn.primitive import PrimitiveDesc


def convolution(
    src: MemoryDesc,
    weights: MemoryDesc,
    bias: MemoryDesc | None,
    dst: MemoryDesc,
    *,
    strides: Sequence[int],
    padding_l: Sequence[int],
    padding_r: Sequence[int],
    dilations: Sequence[int] | None = None,
    attributes: Attributes | None = None,
    algorithm: Algorithm = Algorithm.convolution_direct,
) -> PrimitiveDesc:
    """Cross-correlation. weights ([g,] o, i, k...), bias (g * o); dilation 1 is dense.

    Types: f32; bf16 or f16 to the same or f32; u8/s8 by s8 to any of u8, s8, s32, f32, bf16.
    """
    return _windowed(
        "convolution_forward",
        algorithm,
        (src, weights, bias, dst),
        (strides, dilations, padding_l, padding_r),
        attributes,
    )


def deconvolution(
    src: MemoryDesc,
    weights: MemoryDesc,
    bias: MemoryDesc | None,
    dst: MemoryDesc,
    *,
    strides: Sequence[int],
    padding_l: Sequence[int],
    padding_r: Sequence[int],
    dilations: Sequence[int] | None = None,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Transposed convolution. weights ([g,] o, i, k...): torch keeps (i, o, k...), so permute.

    padding_r = padding - output_padding in torch's terms.
    """
    return _windowed(
        "deconvolution_forward",
        Algorithm.deconvolution_direct,
        (src, weights, bias, dst),
        (strides, dilations, padding_l, padding_r),
        attributes,
    )


def _windowed(
    operation: str,
    algorithm: Algorithm,
    tensors: tuple[MemoryDesc, MemoryDesc, MemoryDesc | None, MemoryDesc],
    window: tuple[Sequence[int], Sequence[int] | None, Sequence[int], Sequence[int]],
    attributes: Attributes | None,
) -> PrimitiveDesc:
    count = len(tensors[0].dims) - 2
    strides, dilations, padding_l, padding_r = window
    gaps = [0] * count if dilations is None else [step - 1 for step in dilations]
    spatial(
        operation,
        count,
        strides=strides,
        dilations=gaps,
        padding_l=padding_l,
        padding_r=padding_r,
    )
    axes = [dims_array(values) for values in (strides, gaps, padding_l, padding_r)]
    descs = [pointer(desc) for desc in tensors]
    return create(operation, attributes, [FORWARD_INFERENCE, algorithm, *descs, *axes], tensors)


def pooling(
    algorithm: Algorithm,
    src: MemoryDesc,
    dst: MemoryDesc,
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding_l: Sequence[int],
    padding_r: Sequence[int],
    dilations: Sequence[int] | None = None,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Window maximum or mean (Algorithm.pooling_*); dilation 1 is dense."""
    count = len(src.dims) - 2
    gaps = [0] * count if dilations is None else [step - 1 for step in dilations]
    window = {
        "strides": strides,
        "kernel": kernel,
        "dilations": gaps,
        "padding_l": padding_l,
        "padding_r": padding_r,
    }
    spatial("pooling", count, **window)
    axes = [dims_array(values) for values in window.values()]
    arguments = [FORWARD_INFERENCE, algorithm, src.pointer, dst.pointer, *axes]
    return create("pooling_forward", attributes, arguments, (src, dst))


def resampling(
    algorithm: Algorithm,
    src: MemoryDesc,
    dst: MemoryDesc,
    *,
    factors: Sequence[float] | None = None,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Nearest or linear resize at half-pixel centres (torch's align_corners=False).

    Nearest rounds at half-pixel centres too, which is torch's "nearest-exact"; it equals torch's
    "nearest" where dst is a whole multiple of src. `factors` default to dst / src.
    """
    count = len(src.dims) - 2
    values = None
    if factors is not None:
        spatial("resampling", count, factors=[round(factor) for factor in factors])
        values = (ctypes.c_float * count)(*factors)
    arguments = [FORWARD_INFERENCE, algorithm, values, src.pointer, dst.pointer]
    return create("resampling_forward", attributes, arguments, (src, dst))
