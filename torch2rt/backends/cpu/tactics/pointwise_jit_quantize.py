"""Images to 8 bits, channels last, by a kernel of our own: what the first convolution reads.

Idea: 16 pixels of every channel are multiplied, rounded and narrowed in registers, and one shuffle
interleaves the channels. The last pixels of a row are done twice where 16 do not divide it.
Bytes moved: input and output once. Limits: row-major float32 with up to 4 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from torch2rt.backends.cpu.jit import JitUnavailable, address_of_kernel, jit_unavailable
from torch2rt.backends.cpu.jit.function import Function
from torch2rt.backends.cpu.jit.parallel import RowFunction, RowsPrepared, row_function
from torch2rt.backends.cpu.onednn.openmp import get_threads
from torch2rt.backends.cpu.tactics.pointwise_onednn_scale import ScaleReorder, factor_of
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Unprepared, Weights
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.network.dtype import DType

LANES = 16
MAX_CHANNELS = 4


class QuantizeImages(ScaleReorder):
    """One parallel region over the rows of the images."""

    name: ClassVar[str] = "pointwise.jit.quantize"

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """A factor from float32 to 8 bits, of images with few channels."""
        source, target = spec.inputs[0], spec.outputs[0]
        if source.dtype is not DType.FLOAT32 or target.dtype not in EIGHT_BITS:
            return Refusal("not from float32 to 8 bits")
        if source.rank != 4 or not 1 <= source.shape[1] <= MAX_CHANNELS:
            return Refusal(f"not images of up to {MAX_CHANNELS} channels")
        if source.shape[3] < LANES:
            return Refusal(f"rows of less than {LANES} pixels")
        reason = super().supports(spec)
        if reason is not None:
            return reason
        missing = jit_unavailable()
        return Refusal(missing) if missing is not None else None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """From row-major to channels last."""
        return [LayoutChoice((Layout.PLAIN,), (Layout.CHANNELS_LAST,))]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the kernel, unless this process has it."""
        factor = factor_of(spec)
        if factor is None:
            raise Unprepared("the expression is more than a factor")
        bits = int(np.float32(factor).view(np.uint32))
        sizes = "_".join(map(str, spec.inputs[0].shape))
        name = f"quantize_{spec.outputs[0].dtype.value}_{sizes}_{bits:x}"
        try:
            function = address_of_kernel(name, lambda: _text(name, spec, factor))
        except JitUnavailable as error:
            raise Unprepared(str(error)) from error
        return RowsPrepared(function, get_threads())


def _text(name: str, spec: LayerSpec, factor: float) -> str:
    """The module: for each row, for each 16 pixels, all channels."""
    images, channels, height, width = spec.inputs[0].shape
    with row_function(name, LANES, images * height) as rows:
        f = rows.f
        with f.loop(rows.begin, rows.end) as row:
            image = f.integer("sdiv", row.counter, height)
            y = f.integer("srem", row.counter, height)
            first = f.integer("mul", image, channels * height * width)
            source = f.integer("add", first, f.integer("mul", y, width))
            target = f.integer("mul", row.counter, width * channels)
            with f.loop(0, -(-width // LANES)) as block:
                start = f.integer("mul", block.counter, LANES)
                start = f.value(f"call i64 @llvm.smin.i64(i64 {start}, i64 {width - LANES})")
                _pixels(rows, spec, factor, f.integer("add", source, start),
                        f.integer("add", target, f.integer("mul", start, channels)))
    vector = f.vector
    return f"{f.text}\ndeclare i64 @llvm.smin.i64(i64, i64)\n" + "".join(
        f"declare {vector} @llvm.{op}.v{LANES}f32({', '.join([vector] * count)})\n"
        for op, count in (("maxnum", 2), ("minnum", 2), ("rint", 1))
    )


def _pixels(
    rows: RowFunction, spec: LayerSpec, factor: float, source: str, target: str
) -> None:
    """Sixteen pixels: ``source`` is their place in the first channel, ``target`` in the result."""
    f = rows.f
    _, channels, height, width = spec.inputs[0].shape
    limits = np.iinfo(spec.outputs[0].dtype.numpy)
    bytes_ = []
    for channel in range(channels):
        place = f.integer("add", source, channel * height * width)
        value = f.math("fmul", f.load(f.vector, f.at(rows.source, place)), f.constant(factor))
        value = f.intrinsic("maxnum", value, f.constant(float(limits.min)))
        value = f.intrinsic("minnum", value, f.constant(float(limits.max)))
        value = f.intrinsic("rint", value)
        wide = f.value(f"fptosi {f.vector} {value} to <{LANES} x i32>")
        bytes_.append(f.value(f"trunc <{LANES} x i32> {wide} to <{LANES} x i8>"))
    f.store(f"<{LANES * channels} x i8>", _interleaved(f, bytes_),
            f.at(rows.target, target, "i8"), 1)


def _interleaved(f: Function, parts: Sequence[str]) -> str:
    """Vectors a, b, c as one: a0 b0 c0 a1 b1 c1 ..."""
    count = len(parts)
    if count == 1:
        return parts[0]
    given = [*parts, *["poison"] * (count % 2)]
    half = f"<{LANES} x i8>"
    order = ", ".join(f"i32 {index}" for index in range(2 * LANES))
    pairs = [
        f.value(f"shufflevector {half} {left}, {half} {right}, <{2 * LANES} x i32> <{order}>")
        for left, right in zip(given[::2], given[1::2], strict=True)
    ]
    pairs += ["poison"] * (2 - len(pairs))
    places = ", ".join(
        f"i32 {part * LANES + lane}" for lane in range(LANES) for part in range(count)
    )
    pair = f"<{2 * LANES} x i8>"
    return f.value(
        f"shufflevector {pair} {pairs[0]}, {pair} {pairs[1]}, <{count * LANES} x i32> <{places}>"
    )
