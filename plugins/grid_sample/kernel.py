"""Samples of volumes. Grid: points. Bytes: points, outputs, corners. Any architecture.

Idea: a thread takes one point, finds its eight corners and their weights once, and goes through
the channels; neighbouring threads write neighbouring outputs.
Limits: elements of one volume below 2^31.
"""

from __future__ import annotations

NAME = "t2r_grid_sample_3d"
THREADS = 128
MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border", "reflection")

SOURCE = f"""
// Mirrors at low/2 and high/2 until within.
static __device__ float t2r_mirrored(float x, int low, int high) {{
    if (low == high) return 0.0f;
    const float least = low * 0.5f, span = (high - low) * 0.5f;
    x = fabsf(x - least);
    const float extra = fmodf(x, span);
    const float flips = floorf(x / span);
    return fmodf(flips, 2.0f) == 0.0f ? extra + least : span - extra + least;
}}

// From -1..1 to pixels of an axis. What is not finite or far outside goes where no int overflows.
static __device__ float t2r_source(float x, int size, int padding, int aligned) {{
    x = aligned ? (x + 1.0f) * 0.5f * (size - 1) : ((x + 1.0f) * size - 1.0f) * 0.5f;
    if (padding == 2) x = aligned ? t2r_mirrored(x, 0, 2 * (size - 1))
                                  : t2r_mirrored(x, -1, 2 * size - 1);
    if (padding) x = fminf(size - 1.0f, fmaxf(x, 0.0f));
    return x >= -2147483520.0f && x <= 2147483520.0f ? x : -100.0f;
}}

extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    const in0_t* x, const in1_t* grid, out0_t* y, long long points, int per_volume, int c, int d,
    int h, int w, int mode, int padding, int aligned
) {{
    const long long point = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (point >= points) return;
    const float px = t2r_source(to_float(grid[3 * point]), w, padding, aligned);
    const float py = t2r_source(to_float(grid[3 * point + 1]), h, padding, aligned);
    const float pz = t2r_source(to_float(grid[3 * point + 2]), d, padding, aligned);
    const bool is_nearest = mode == 1;
    const float fx = is_nearest ? rintf(px) : floorf(px), fy = is_nearest ? rintf(py) : floorf(py);
    const float fz = is_nearest ? rintf(pz) : floorf(pz);
    const float rx = px - fx, ry = py - fy, rz = pz - fz;
    int offsets[8];
    float weights[8];
    for (int i = 0; i < 8; i++) {{
        const int ix = (int)fx + (i & 1), iy = (int)fy + (i >> 1 & 1), iz = (int)fz + (i >> 2);
        const bool exists = ix >= 0 && ix < w && iy >= 0 && iy < h && iz >= 0 && iz < d
            && (i == 0 || !is_nearest);
        offsets[i] = exists ? (iz * h + iy) * w + ix : -1;
        weights[i] = is_nearest ? 1.0f : (i & 1 ? rx : 1.0f - rx) * (i >> 1 & 1 ? ry : 1.0f - ry)
            * (i >> 2 ? rz : 1.0f - rz);
    }}
    const long long volume = point / per_volume;
    x += volume * c * d * h * w;
    y += volume * c * per_volume + point % per_volume;
    for (int k = 0; k < c; k++, x += d * h * w, y += per_volume) {{
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (offsets[i] >= 0) sum += to_float(x[offsets[i]]) * weights[i];
        *y = from_float<out0_t>(sum);
    }}
}}
"""
