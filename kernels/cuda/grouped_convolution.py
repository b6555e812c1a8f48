"""Convolution in groups of few channels, without tensor cores: float32 as well.

Idea: a thread makes VECTOR neighbouring filters, of one group or of several whole ones, for a row
of pixels. For every tap it loads the channels of those groups for all its pixels, then for every
channel of a group one weight per filter, used for all pixels.
Grid: a thread per pixels and vector of filters, filters first.
Bytes moved: the image once per row of the window, from the L1 cache; the result once.
Limits: up to 32 channels in a group, one or two axes. Architectures: all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch2rt.kernels.cuda.convolution_finish import (
    extra_arguments,
    extra_parameters,
    finish_function,
)
from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape, axis_constants
from torch2rt.kernels.cuda.prelude import PRELUDE

NAME = "t2r_grouped_convolution"
THREADS = 128
# Values that a thread holds of the image.
_MAX_VALUES = 64
_THREADS_PER_MULTIPROCESSOR = 256


@dataclass(frozen=True, slots=True)
class GroupedPlan:
    """Filters and pixels (of a row) of a thread, and the channels that these filters read."""

    vector: int
    pixels: int
    channels: int

    def thread_count(self, shape: ConvolutionShape) -> int:
        """Threads that have work."""
        rows: int = shape.batch * shape.result[1]
        slots: int = shape.out_channels // self.vector
        columns: int = -(-shape.result[2] // self.pixels)
        return rows * columns * slots


def plan_grouped(shape: ConvolutionShape, multiprocessors: int) -> GroupedPlan:
    """As many filters and pixels per thread as registers allow and threads stay many."""
    vector = 8
    while shape.out_channels % vector or (shape.group_out % vector and vector % shape.group_out):
        vector //= 2
    channels = shape.group_in * max(1, vector // shape.group_out)
    for pixels in (8, 4, 2):
        plan = GroupedPlan(vector, pixels, channels)
        is_full = shape.result[2] >= pixels and pixels * max(channels, vector) <= _MAX_VALUES
        enough = multiprocessors * _THREADS_PER_MULTIPROCESSOR
        if is_full and plan.thread_count(shape) >= enough:
            return plan
    return GroupedPlan(vector, 1, channels)


def grouped_source(shape: ConvolutionShape, plan: GroupedPlan) -> str:
    """The kernel ``(x, weight, out, extras..., threads)``.

    weight: floats [tap, channel of a group, filter].
    """
    together = math.gcd(plan.channels, shape.x.vector, 16 // shape.x.itemsize_bytes)
    constants = {
        "V": plan.vector, "PIXELS": plan.pixels, "READ": plan.channels, "TOGETHER": together,
        "SLOTS": shape.out_channels // plan.vector,
        "TILES_W": -(-shape.result[2] // plan.pixels),
    }
    source: str = (
        PRELUDE + axis_constants(shape)
        + "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
        + finish_function(shape)
        + _KERNEL.replace("@NAME", NAME).replace("@THREADS", str(THREADS))
        .replace("@PARAMETERS", extra_parameters(shape))
        .replace("@ARGUMENTS", extra_arguments(shape))
    )
    return source


_KERNEL = r"""
extern "C" __global__ void __launch_bounds__(@THREADS) @NAME(
    const In* x, const float* __restrict__ weight,
    Result* __restrict__ out@PARAMETERS, i32 threads
) {
    int item = blockIdx.x * @THREADS + threadIdx.x;
    t2r_wait();
    if (item >= threads) return;
    const int filter = item % SLOTS * V;
    item /= SLOTS;
    const int w0 = item % TILES_W * PIXELS;
    item /= TILES_W;
    const int h = item % RESULT_H, n = item / RESULT_H;

    const int left = w0 * STRIDE_W - BEFORE_W, top = h * STRIDE_H - BEFORE_H;
    const In* const image = x + n * X_STRIDE_N + filter / GROUP_OUT * GROUP_IN;
    float sums[PIXELS][V];
#pragma unroll
    for (int i = 0; i < PIXELS * V; i++) sums[i / V][i % V] = 0.0f;
#pragma unroll 1
    for (int r = 0; r < KERNEL_H; r++) {
        const int y = top + r * DILATION_H;
        if ((unsigned)y >= (unsigned)IMAGE_H) continue;
#pragma unroll 1
        for (int s = 0; s < KERNEL_W; s++) {
            Loaded<In, TOGETHER> loaded[PIXELS][READ / TOGETHER];
#pragma unroll
            for (int p = 0; p < PIXELS; p++) {
                const int z = left + p * STRIDE_W + s * DILATION_W;
                const In* const pixel = image + y * X_STRIDE_H + z * X_STRIDE_W;
#pragma unroll
                for (int c = 0; c < READ; c += TOGETHER)
                    loaded[p][c / TOGETHER] = load_if<In, TOGETHER>(
                        (unsigned)z < (unsigned)IMAGE_W, pixel + c);
            }
            float values[PIXELS][READ];
#pragma unroll
            for (int i = 0; i < PIXELS * READ; i += TOGETHER) {
                float taken[TOGETHER];
                to_floats<In, TOGETHER>(taken, loaded[i / READ][i % READ / TOGETHER]);
#pragma unroll
                for (int j = 0; j < TOGETHER; j++) values[i / READ][i % READ + j] = taken[j];
            }
            const float* const tap = weight + (r * KERNEL_W + s) * (GROUP_IN * FILTERS) + filter;
#pragma unroll
            for (int c = 0; c < GROUP_IN; c++) {
                float taken[V];
                load_floats<float, V>(taken, tap + c * FILTERS);
#pragma unroll
                for (int p = 0; p < PIXELS; p++) {
#pragma unroll
                    for (int i = 0; i < V; i++)
                        sums[p][i] += values[p][i / GROUP_OUT * GROUP_IN + c] * taken[i];
                }
            }
        }
    }
#pragma unroll
    for (int p = 0; p < PIXELS; p++)
        if (w0 + p < RESULT_W) finish<V>(sums[p], n, 0, h, w0 + p, filter, out@ARGUMENTS);
}
"""
