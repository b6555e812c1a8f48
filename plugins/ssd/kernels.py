"""SSD's own layers. Any architecture.

Prior boxes. Grid: priors. Bytes: out.

Detections, three launches. Grids: priors of images; images; images. Decoding writes boxes to the
workspace, suppression (see `torch2rt.plugins.nms.kernel`) reads them there and writes which are
kept, and the last launch collects them. Bytes: scores once or twice, offsets and priors once.
"""

from __future__ import annotations

from torch2rt.plugins.nms.kernel import NMS_PARTS, THREADS

PRIOR_BOX_NAME = "t2r_prior_box"
PRIOR_BOX_THREADS = 128
LARGEST_PRIORS = 16

_SIZES = ", ".join(f"float w{i}, float h{i}" for i in range(LARGEST_PRIORS))
_WIDTHS = ", ".join(f"w{i}" for i in range(LARGEST_PRIORS))
_HEIGHTS = ", ".join(f"h{i}" for i in range(LARGEST_PRIORS))

PRIOR_BOX_SOURCE = f"""
extern "C" __global__ void __launch_bounds__({PRIOR_BOX_THREADS}) {PRIOR_BOX_NAME}(
    const in0_t* features, const in1_t* image, float* y, int h, int w, int high, int wide,
    int priors, int clip, float step, float offset, float v0, float v1, float v2, float v3, {_SIZES}
) {{
    const float widths[] = {{{_WIDTHS}}}, heights[] = {{{_HEIGHTS}}};
    const float variances[] = {{v0, v1, v2, v3}};
    const int count = h * w * priors, flat = blockIdx.x * blockDim.x + threadIdx.x;
    if (flat >= count) return;
    const int prior = flat % priors, i = flat / priors % w, j = flat / priors / w;
    const float cx = (i + offset) * (step != 0.0f ? step : (float)wide / w);
    const float cy = (j + offset) * (step != 0.0f ? step : (float)high / h);
    const float rx = widths[prior] / 2, ry = heights[prior] / 2;
    const float corners[4] = {{(cx - rx) / wide, (cy - ry) / high, (cx + rx) / wide,
                              (cy + ry) / high}};
    for (int k = 0; k < 4; k++) {{
        y[4 * flat + k] = clip ? fminf(fmaxf(corners[k], 0.0f), 1.0f) : corners[k];
        y[4 * (count + flat) + k] = variances[k];
    }}
}}
"""

DECODE_NAME, COLLECT_NAME = "t2r_ssd_decode", "t2r_ssd_collect"
SUPPRESS_NAME = "t2r_ssd_suppress"
DECODE_THREADS, COLLECT_THREADS = 256, 128

# Where boxes, kept candidates and their indices lie in the workspace, from its start.
_PLACES = """
    const i64 all_boxes = (i64)images * n * 16;
    float* const boxes = (float*)workspace;
    i64* const indices = (i64*)((char*)workspace + all_boxes);
    Kept* const kept = (Kept*)((char*)indices + ((i64)images * max_output * 8 + 15) / 16 * 16);
"""
_POINTERS = """
    const float* offsets, const float* scores, const float* priors, float* detections,
    i32* counts, void* workspace"""

DECODE_SOURCE = f"""
extern "C" __global__ void __launch_bounds__({DECODE_THREADS}) {DECODE_NAME}({_POINTERS},
    int images, int n, int centred, int scaled
) {{
    const i64 flat = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (flat >= (i64)images * n) return;
    const int prior = (int)(flat % n);
    float4 p = ((const float4*)priors)[prior];
    float4 v = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
    if (scaled) v = ((const float4*)priors)[n + prior];
    const float4 t = ((const float4*)offsets)[flat];
    float4 box = make_float4(p.x + v.x * t.x, p.y + v.y * t.y, p.z + v.z * t.z, p.w + v.w * t.w);
    if (centred) {{
        const float w = p.z - p.x, h = p.w - p.y;
        const float cx = v.x * t.x * w + (p.x + p.z) / 2, cy = v.y * t.y * h + (p.y + p.w) / 2;
        const float rx = expf(v.z * t.z) * w / 2, ry = expf(v.w * t.w) * h / 2;
        box = make_float4(cx - rx, cy - ry, cx + rx, cy + ry);
    }}
    ((float4*)workspace)[flat] = box;
}}
"""

SUPPRESS_SOURCE = NMS_PARTS + f"""
struct Categories {{
    int k;
    T2R_MEMBER int operator()(int index) const {{ return index % k; }}
}};
struct Scores {{
    const float* scores;
    int k, background;
    T2R_MEMBER float operator[](int index) const {{
        return index % k == background ? -t2r_infinity() : scores[index];
    }}
}};
extern "C" __global__ void __launch_bounds__({THREADS}) {SUPPRESS_NAME}({_POINTERS},
    int images, int n, int k, int max_output, int top_k, int background, float iou_threshold,
    float score_threshold
) {{
    {_PLACES}
    t2r_suppress(
        (const float4*)boxes + (i64)blockIdx.x * n,
        Scores{{scores + (i64)blockIdx.x * n * k, k, background}}, Categories{{k}},
        indices + (i64)blockIdx.x * max_output, counts + blockIdx.x,
        kept + (i64)blockIdx.x * max_output,
        (int*)(kept + (i64)images * max_output) + (i64)blockIdx.x * k, n * k, k, max_output, top_k,
        -1, iou_threshold, score_threshold
    );
}}
"""

COLLECT_SOURCE = f"""
struct Kept {{ float4 box; int category; int unused[3]; }};
extern "C" __global__ void __launch_bounds__({COLLECT_THREADS}) {COLLECT_NAME}({_POINTERS},
    int images, int n, int k, int max_output
) {{
    {_PLACES}
    const int image = blockIdx.x;
    for (int i = threadIdx.x; i < max_output; i += blockDim.x) {{
        float* row = detections + ((i64)image * max_output + i) * 7;
        const i64 index = indices[(i64)image * max_output + i];
        if (index < 0) {{
            for (int j = 0; j < 7; j++) row[j] = j ? 0.0f : -1.0f;
            continue;
        }}
        const float4 box = kept[(i64)image * max_output + i].box;
        row[0] = image, row[1] = (float)(index % k);
        row[2] = scores[(i64)image * n * k + index];
        row[3] = box.x, row[4] = box.y, row[5] = box.z, row[6] = box.w;
    }}
}}
"""
