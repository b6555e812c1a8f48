"""RoIAlign. Grid: outputs. Bytes: outputs, and the samples' corners. Any architecture.

Idea: a thread computes one output, the mean over its samples; neighbouring threads take
neighbouring bins of one channel, whose samples share lines of the cache.
Limits: elements of one image below 2^31.
"""

from __future__ import annotations

NAME = "t2r_roi_align"
THREADS = 256

SOURCE = f"""
// The sample at (y, x) between four pixels; zero a pixel or more outside of the image.
static __device__ float t2r_sample(const in0_t* image, int h, int w, float y, float x) {{
    if (!(y >= -1.0f && y <= h && x >= -1.0f && x <= w)) return 0.0f;
    y = fmaxf(y, 0.0f), x = fmaxf(x, 0.0f);
    int top = (int)y, left = (int)x, bottom = top + 1, right = left + 1;
    if (top >= h - 1) top = bottom = h - 1, y = (float)top;
    if (left >= w - 1) left = right = w - 1, x = (float)left;
    const float ly = y - top, lx = x - left;
    const float above = (1.0f - lx) * to_float(image[top * w + left])
        + lx * to_float(image[top * w + right]);
    const float below = (1.0f - lx) * to_float(image[bottom * w + left])
        + lx * to_float(image[bottom * w + right]);
    return (1.0f - ly) * above + ly * below;
}}

extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    const in0_t* x, const in1_t* rois, out0_t* y, long long total, int images, int c, int h, int w,
    int ph, int pw, float scale, int sampling, int aligned
) {{
    const long long flat = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (flat >= total) return;
    const int j = (int)(flat % pw), i = (int)(flat / pw % ph), k = (int)(flat / pw / ph % c);
    const in1_t* roi = rois + flat / pw / ph / c * 5;
    const int image = (int)to_float(roi[0]);
    if (image < 0 || image >= images) {{ y[flat] = from_float<out0_t>(0.0f); return; }}
    const float offset = aligned ? 0.5f : 0.0f;
    const float x1 = to_float(roi[1]) * scale - offset, y1 = to_float(roi[2]) * scale - offset;
    float wide = to_float(roi[3]) * scale - offset - x1;
    float high = to_float(roi[4]) * scale - offset - y1;
    if (!aligned) wide = fmaxf(wide, 1.0f), high = fmaxf(high, 1.0f);
    const float bin_h = high / ph, bin_w = wide / pw;
    const int rows = sampling > 0 ? sampling : (int)ceilf(bin_h);
    const int columns = sampling > 0 ? sampling : (int)ceilf(bin_w);
    const in0_t* plane = x + ((long long)image * c + k) * h * w;
    float sum = 0.0f;
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++)
            sum += t2r_sample(plane, h, w, y1 + i * bin_h + (a + 0.5f) * bin_h / rows,
                              x1 + j * bin_w + (b + 0.5f) * bin_w / columns);
    y[flat] = from_float<out0_t>(sum / max(rows * columns, 1));
}}
"""
