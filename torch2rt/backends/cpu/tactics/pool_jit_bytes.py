"""Maxima of bytes over windows by a kernel of our own.

Idea: a register holds 64 channels of a pixel. Rows and columns outside the image are replaced by
the nearest inside, which the window holds as well, so that no load is conditional.
Bytes moved: input and output once. Limits: channels last in multiples of 16, no dilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cpu.jit import JitUnavailable, address_of_kernel, jit_unavailable
from torch2rt.backends.cpu.jit.function import Function
from torch2rt.backends.cpu.jit.parallel import RowsPrepared, row_function
from torch2rt.backends.cpu.onednn.openmp import get_threads
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Unprepared, Weights
from torch2rt.layers.accumulator import EIGHT_BITS
from torch2rt.layers.pool import Pool
from torch2rt.network.dtype import DType

# Longer windows would make functions too long.
MAX_TAPS = 25


class MaximaOfBytes(Tactic):
    """One parallel region over the rows of the output."""

    name: ClassVar[str] = "pool.jit.bytes"
    kinds: ClassVar[tuple[str, ...]] = ("pool",)

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Maxima over two axes of bytes, every window with a pixel of the image."""
        kind = _kind(spec)
        if kind.mode != "max" or len(kind.kernel) != 2 or spec.epilogue is not None:
            return Refusal("not a maximum over two axes alone")
        if spec.inputs[0].dtype not in EIGHT_BITS or spec.outputs[0].dtype not in EIGHT_BITS:
            return Refusal("written for bytes")
        if set(kind.dilation) != {1} or kind.kernel[0] * kind.kernel[1] > MAX_TAPS:
            return Refusal(f"a dilation, or more than {MAX_TAPS} values in a window")
        if spec.inputs[0].shape[1] % 16:
            return Refusal("the channels are no multiple of 16")
        if not all(_hits(kind, spec, axis) for axis in (0, 1)):
            return Refusal("a window lies in the padding alone")
        reason = jit_unavailable()
        return Refusal(reason) if reason is not None else None

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """Channels last."""
        return [LayoutChoice((Layout.CHANNELS_LAST,), (Layout.CHANNELS_LAST,))]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Compile the kernel, unless this process has it."""
        kind, (images, channels, height, width) = _kind(spec), spec.inputs[0].shape
        sign = "s" if spec.inputs[0].dtype is DType.INT8 else "u"
        sizes = (
            images, channels, height, width, *spec.outputs[0].shape[2:], *kind.kernel,
            *kind.stride, *kind.padding_before,
        )
        name = f"pool_{sign}8_" + "_".join(map(str, sizes))
        try:
            function = address_of_kernel(name, lambda: _text(name, spec, kind, sign))
        except JitUnavailable as error:
            raise Unprepared(str(error)) from error
        return RowsPrepared(function, get_threads())


def _kind(spec: LayerSpec) -> Pool:
    if not isinstance(spec.kind, Pool):
        raise Unprepared(f"{spec.kind.name} is not a pooling")
    return spec.kind


def _hits(kind: Pool, spec: LayerSpec, axis: int) -> bool:
    """Whether the first and the last window along an axis reach into the image."""
    last = (spec.outputs[0].shape[2 + axis] - 1) * kind.stride[axis] - kind.padding_before[axis]
    return kind.padding_before[axis] < kind.kernel[axis] and last < spec.inputs[0].shape[2 + axis]


def _text(name: str, spec: LayerSpec, kind: Pool, sign: str) -> str:
    """The module: for each row, for each pixel, for each register of channels, the maximum."""
    images, channels, height, width = spec.inputs[0].shape
    out_height, out_width = spec.outputs[0].shape[2:]
    lanes = next(size for size in (64, 32, 16) if channels % size == 0)
    vector = f"<{lanes} x i8>"
    with row_function(name, lanes, images * out_height) as rows:
        f = rows.f
        with f.loop(rows.begin, rows.end) as row:
            image = f.integer("sdiv", row.counter, out_height)
            y = f.integer("srem", row.counter, out_height)
            first = f.integer("mul", image, height)
            lines = [
                f.integer("mul", f.integer("add", first, line), width * channels)
                for line in _clamped(f, y, kind, 0, height)
            ]
            target = f.at(rows.target, f.integer("mul", row.counter, out_width * channels), "i8")
            with f.loop(0, out_width) as column:
                places = [
                    f.integer("mul", place, channels)
                    for place in _clamped(f, column.counter, kind, 1, width)
                ]
                taps = [f.integer("add", line, place) for line in lines for place in places]
                written = f.at(target, f.integer("mul", column.counter, channels), "i8")
                for start in range(0, channels, lanes):
                    loads = [
                        f.load(vector, f.at(f.at(rows.source, tap, "i8"), start, "i8"), 1)
                        for tap in taps
                    ]
                    f.store(vector, _maximum(f, loads, vector, sign, lanes),
                            f.at(written, start, "i8"), 1)
    return f"{f.text}\ndeclare {vector} @llvm.{sign}max.v{lanes}i8({vector}, {vector})\n" + "".join(
        f"declare i64 @llvm.{op}.i64(i64, i64)\n" for op in ("smax", "smin")
    )


def _clamped(f: Function, position: str, kind: Pool, axis: int, size: int) -> list[str]:
    """The rows or columns of a window, those outside the image replaced by the nearest inside."""
    scaled = f.integer("mul", position, kind.stride[axis])
    first = f.integer("sub", scaled, kind.padding_before[axis])
    found = []
    for tap in range(kind.kernel[axis]):
        place = f.integer("add", first, tap)
        place = f.value(f"call i64 @llvm.smax.i64(i64 {place}, i64 0)")
        found.append(f.value(f"call i64 @llvm.smin.i64(i64 {place}, i64 {size - 1})"))
    return found


def _maximum(f: Function, values: Sequence[str], vector: str, sign: str, lanes: int) -> str:
    result = values[0]
    for value in values[1:]:
        operands = f"{vector} {result}, {vector} {value}"
        result = f.value(f"call {vector} @llvm.{sign}max.v{lanes}i8({operands})")
    return result
