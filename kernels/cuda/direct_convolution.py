"""Any convolution or transposed convolution, directly: the kernel that takes what others refuse.

Idea: a thread makes VECTOR filters of one pixel and adds up over the window and the channels of
its group. A transposed convolution gathers: the taps that reach the pixel.
Grid: a thread per pixel and vector of filters; filters first where the result has channels last,
else pixels first.
Bytes moved: the image TAPS times and the weights once per pixel, from the caches.
Limits: none. Architectures: all.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch2rt.kernels.cuda.convolution_finish import (
    extra_arguments,
    extra_parameters,
    finish_function,
)
from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape, axis_constants
from torch2rt.kernels.cuda.prelude import PRELUDE

NAME = "t2r_direct_convolution"
THREADS = 128


@dataclass(frozen=True, slots=True)
class DirectWeight:
    """Where weights lie: the C++ type, and elements between groups, channels, filters and taps."""

    type: str
    group: int
    channel: int
    filter: int
    tap: int


def packed_weight(shape: ConvolutionShape) -> DirectWeight:
    """Floats [group, tap, channel of the group, filter of the group]."""
    channel = shape.group_out
    tap = channel * shape.group_in
    return DirectWeight("float", tap * shape.taps, channel, 1, tap)


def plain_weight(shape: ConvolutionShape, type: str, transposed: bool) -> DirectWeight:
    """As the layer has them: [k, c/groups, taps], transposed [c, k/groups, taps]."""
    inner = shape.group_out if transposed else shape.group_in
    group = (shape.group_in if transposed else shape.group_out) * inner * shape.taps
    first, second = inner * shape.taps, shape.taps
    channel, filter = (first, second) if transposed else (second, first)
    return DirectWeight(type, group, channel, filter, 1)


def vector_size(shape: ConvolutionShape, multiprocessors: int) -> int:
    """Filters of a thread: up to 8 that divide a group's, fewer where threads would be few."""
    vector = 8
    pixels = shape.batch * shape.result[0] * shape.result[1] * shape.result[2]
    while shape.group_out % vector or (
        vector > 1 and pixels * shape.out_channels // vector < multiprocessors * 256
    ):
        vector //= 2
    return vector


def thread_count(shape: ConvolutionShape, vector: int) -> int:
    """Threads that have work."""
    pixels: int = shape.batch * shape.result[0] * shape.result[1] * shape.result[2]
    filters: int = shape.out_channels
    return pixels * (filters // vector)


def direct_source(
    shape: ConvolutionShape, weight: DirectWeight, vector: int, transposed: bool
) -> str:
    """The kernel ``(x, weight, out, extras..., threads)``."""
    # Channels that are read at once, where they are contiguous.
    together = shape.x.vector
    while shape.group_in % together or together * shape.x.itemsize_bytes > 16:
        together //= 2
    constants = {
        "V": vector, "TOGETHER": together, "SLOTS": shape.out_channels // vector,
        "GROUP_SLOTS": shape.group_out // vector,
    }
    strides = {
        "WEIGHT_GROUP": weight.group, "WEIGHT_CHANNEL": weight.channel,
        "WEIGHT_FILTER": weight.filter, "WEIGHT_TAP": weight.tap,
    }
    flags = {
        "SLOTS_FIRST": shape.out.strides[1] == 1, "TRANSPOSED": transposed,
    }
    weight_vector = vector if weight.filter == 1 else 1
    source: str = (
        PRELUDE + axis_constants(shape)
        + "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
        + "".join(f"constexpr i64 {name} = {value};\n" for name, value in strides.items())
        + "".join(f"constexpr bool {name} = {str(v).lower()};\n" for name, v in flags.items())
        + f"typedef {weight.type} Weight;\nconstexpr int WEIGHT_VECTOR = {weight_vector};\n"
        + finish_function(shape)
        + _KERNEL.replace("@NAME", NAME).replace("@THREADS", str(THREADS))
        .replace("@PARAMETERS", extra_parameters(shape))
        .replace("@ARGUMENTS", extra_arguments(shape))
    )
    return source


_KERNEL = r"""
// The image's index that a tap of an output meets along one axis, -1 if there is none.
template <int STRIDE, int BEFORE, int DILATION, int IMAGE>
T2R_DEVICE int image_index(int result, int tap) {
    if (TRANSPOSED) {
        const int position = result + BEFORE - tap * DILATION;
        return position < 0 || position % STRIDE || position / STRIDE >= IMAGE
            ? -1 : position / STRIDE;
    }
    const int position = result * STRIDE - BEFORE + tap * DILATION;
    return (unsigned)position < (unsigned)IMAGE ? position : -1;
}

extern "C" __global__ void __launch_bounds__(@THREADS) @NAME(
    const In* x, const Weight* __restrict__ weight,
    Result* __restrict__ out@PARAMETERS, i64 threads
) {
    i64 item = (i64)blockIdx.x * @THREADS + threadIdx.x;
    t2r_wait();
    if (item >= threads) return;
    int slot;
    constexpr i64 PIXELS = (i64)RESULT_D * RESULT_H * RESULT_W;
    if (SLOTS_FIRST) {
        slot = (int)(item % SLOTS);
        item /= SLOTS;
    } else {
        slot = (int)(item / PIXELS % SLOTS);
        item = item / PIXELS / SLOTS * PIXELS + item % PIXELS;
    }
    const int w = (int)(item % RESULT_W);
    item /= RESULT_W;
    const int h = (int)(item % RESULT_H);
    item /= RESULT_H;
    const int d = (int)(item % RESULT_D), n = (int)(item / RESULT_D);
    const int group = slot / GROUP_SLOTS;

    const In* const image = x + n * X_STRIDE_N + (Index)group * GROUP_IN * X_STRIDE_C;
    const Weight* const my_weight =
        weight + group * WEIGHT_GROUP + slot % GROUP_SLOTS * V * WEIGHT_FILTER;
    float sums[V];
#pragma unroll
    for (int i = 0; i < V; i++) sums[i] = 0.0f;
#pragma unroll 1
    for (int tap = 0; tap < TAPS; tap++) {
        const int zd = image_index<STRIDE_D, BEFORE_D, DILATION_D, IMAGE_D>(
            d, tap / (KERNEL_H * KERNEL_W));
        const int zh = image_index<STRIDE_H, BEFORE_H, DILATION_H, IMAGE_H>(
            h, tap / KERNEL_W % KERNEL_H);
        const int zw = image_index<STRIDE_W, BEFORE_W, DILATION_W, IMAGE_W>(w, tap % KERNEL_W);
        if (zd < 0 || zh < 0 || zw < 0) continue;
        const In* const pixel = image + zd * X_STRIDE_D + zh * X_STRIDE_H + zw * X_STRIDE_W;
        const Weight* const tap_weight = my_weight + tap * WEIGHT_TAP;
#pragma unroll 2
        for (int c = 0; c < GROUP_IN; c += TOGETHER) {
            float values[TOGETHER];
            load_floats<In, TOGETHER>(values, pixel + c * X_STRIDE_C);
#pragma unroll
            for (int j = 0; j < TOGETHER; j++) {
                const Weight* const column = tap_weight + (c + j) * WEIGHT_CHANNEL;
#pragma unroll
                for (int i = 0; i < V; i += WEIGHT_VECTOR) {
                    float taken[WEIGHT_VECTOR];
                    load_floats<Weight, WEIGHT_VECTOR>(taken, column + i * WEIGHT_FILTER);
#pragma unroll
                    for (int k = 0; k < WEIGHT_VECTOR; k++) sums[i + k] += values[j] * taken[k];
                }
            }
        }
    }
    finish<V>(sums, n, d, h, w, slot * V, out@ARGUMENTS);
}
"""
