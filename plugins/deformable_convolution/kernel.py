"""Deformable convolution in one kernel. Grid: tiles of pixels, of channels, images.

Idea: a block computes 64 output channels at 64 pixels as a product of matrices. Instead of loading
a piece of the unfolded image it samples it, straight into shared memory; so the unfolded image,
which is as many times larger as the window has pixels, is never written.
Bytes: weights once per tile of pixels, four corners per sample. Limits: elements of one image below
2^31. Architectures: any.
"""

from __future__ import annotations

NAME = "t2r_deformable_convolution"
TILE, DEPTH, THREADS = 64, 16, 256

SOURCE = f"""
constexpr int TILE = {TILE}, DEPTH = {DEPTH}, THREADS = {THREADS};

// Between four pixels; those outside of the image count as zero.
static __device__ float t2r_sample(const in0_t* image, int h, int w, float y, float x) {{
    if (!(y > -1.0f && y < h && x > -1.0f && x < w)) return 0.0f;
    const int top = (int)floorf(y), left = (int)floorf(x);
    const float ly = y - top, lx = x - left;
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) {{
        const int row = top + (i >> 1), column = left + (i & 1);
        if (row >= 0 && row < h && column >= 0 && column < w)
            sum += (i >> 1 ? ly : 1.0f - ly) * (i & 1 ? lx : 1.0f - lx)
                * to_float(image[row * w + column]);
    }}
    return sum;
}}

extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    const in0_t* x, const in1_t* weight, const in2_t* offset, const in3_t* mask, const in4_t* bias,
    out0_t* y, int c, int h, int w, int filters, int oh, int ow, int groups, int offset_groups,
    int use_mask, int kh, int kw, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h,
    int dilation_w
) {{
    __shared__ float columns[DEPTH][TILE + 4], rows[DEPTH][TILE + 4];
    const int pixels = oh * ow, taps = kh * kw, depth = c / groups * taps;
    const int of_group = filters / groups, tiles = (of_group + TILE - 1) / TILE;
    const int group = blockIdx.y / tiles, first = blockIdx.y % tiles * TILE;
    const int base = blockIdx.x * TILE, across = threadIdx.x % 16, down = threadIdx.x / 16;
    x += (long long)blockIdx.z * c * h * w;
    offset += (long long)blockIdx.z * offset_groups * 2 * taps * pixels;
    mask += use_mask ? (long long)blockIdx.z * offset_groups * taps * pixels : 0;
    weight += ((long long)group * of_group + first) * depth;
    float sums[4][4] = {{}};
    for (int start = 0; start < depth; start += DEPTH) {{
        for (int i = threadIdx.x; i < DEPTH * TILE; i += THREADS) {{
            const int k = start + i / TILE, pixel = base + i % TILE;
            float value = 0.0f;
            if (k < depth && pixel < pixels) {{
                const int channel = group * (c / groups) + k / taps, tap = k % taps;
                const int block = channel / (c / offset_groups) * taps + tap;
                const float dy = to_float(offset[2 * block * pixels + pixel]);
                const float dx = to_float(offset[(2 * block + 1) * pixels + pixel]);
                const int row = pixel / ow * stride_h - pad_h + tap / kw * dilation_h;
                const int column = pixel % ow * stride_w - pad_w + tap % kw * dilation_w;
                value = t2r_sample(x + channel * h * w, h, w, row + dy, column + dx);
                if (use_mask) value *= to_float(mask[block * pixels + pixel]);
            }}
            columns[i / TILE][i % TILE] = value;
        }}
        for (int i = threadIdx.x; i < DEPTH * TILE; i += THREADS) {{
            const int k = start + i % DEPTH, filter = i / DEPTH;
            const bool exists = k < depth && first + filter < of_group;
            rows[i % DEPTH][filter] = exists
                ? to_float(weight[(long long)filter * depth + k]) : 0.0f;
        }}
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sums[i][j] += rows[k][down * 4 + i] * columns[k][across + 16 * j];
        __syncthreads();
    }}
    for (int i = 0; i < 4; i++) {{
        const int filter = first + down * 4 + i;
        if (filter >= of_group) continue;
        const int channel = group * of_group + filter;
        const float add = to_float(bias[channel]);
        out0_t* out = y + ((long long)blockIdx.z * filters + channel) * pixels;
        for (int j = 0; j < 4; j++) {{
            const int pixel = base + across + 16 * j;
            if (pixel < pixels) out[pixel] = from_float<out0_t>(sums[i][j] + add);
        }}
    }}
}}
"""
