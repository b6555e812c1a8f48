"""Space to depth. Grid: outputs. Bytes: in and out. Any architecture.

Idea: a thread writes one element and computes where it comes from.
Limits: elements of one image below 2^31.
"""

from __future__ import annotations

NAME = "t2r_reorg"
THREADS = 256

SOURCE = f"""
extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    const in0_t* x, out0_t* y, long long total, int c, int h, int w, int stride, int order
) {{
    const long long flat = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (flat >= total) return;
    const int image = c * h * w, square = stride * stride;
    const int at = (int)(flat % image);
    // Sizes of what is taken apart: Darknet counts the output as an image of the input's shape.
    const int wide = order == 2 ? w : w / stride, high = order == 2 ? h : h / stride;
    const int depth = order == 2 ? c / square : c;
    const int i = at % wide, j = at / wide % high, k = at / wide / high;
    const int channel = order == 0 ? k / square : k % depth;
    const int block = order == 0 ? k % square : k / depth;
    const int row = j * stride + block / stride, column = i * stride + block % stride;
    const int from = (channel * high * stride + row) * wide * stride + column;
    y[flat] = x[flat - at + from];
}}
"""
