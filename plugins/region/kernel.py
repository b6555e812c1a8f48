"""YOLOv2's region layer. Grid: cells, anchors, images. Bytes: in and out. Any architecture.

Idea: a block takes 32 neighbouring cells of one anchor, so that channels are read in whole lines;
its rows of threads share the classes among them and meet in shared memory for softmax.
"""

from __future__ import annotations

NAME = "t2r_region"
# Cells of a block, and threads that share the classes of a cell.
CELLS, SPLIT = 32, 8
LARGEST_ANCHORS = 16

_ANCHORS = ", ".join(f"float a{i}, float b{i}" for i in range(LARGEST_ANCHORS))
_WIDTHS = ", ".join(f"a{i}" for i in range(LARGEST_ANCHORS))
_HEIGHTS = ", ".join(f"b{i}" for i in range(LARGEST_ANCHORS))

SOURCE = f"""
static __device__ float t2r_logistic(float x) {{ return 1.0f / (1.0f + expf(-x)); }}

// Over the threads of a cell; `scratch` is free again afterwards.
static __device__ float t2r_of_cell(float x, float* scratch, bool is_sum) {{
    scratch[threadIdx.y * {CELLS} + threadIdx.x] = x;
    __syncthreads();
    for (int i = 0; i < {SPLIT}; i++) {{
        const float other = scratch[i * {CELLS} + threadIdx.x];
        if (i == 0) x = other;
        else x = is_sum ? x + other : nan_max(x, other);
    }}
    __syncthreads();
    return x;
}}

extern "C" __global__ void __launch_bounds__({CELLS * SPLIT}) {NAME}(
    const in0_t* x, out0_t* boxes, out1_t* scores, int h, int w, int classes, int softmax,
    {_ANCHORS}
) {{
    __shared__ float scratch[{CELLS * SPLIT}];
    const float widths[] = {{{_WIDTHS}}}, heights[] = {{{_HEIGHTS}}};
    const int cells = h * w, anchor = blockIdx.y;
    const int cell = blockIdx.x * {CELLS} + threadIdx.x;
    const bool exists = cell < cells;
    const long long group = (long long)blockIdx.z * gridDim.y + anchor;
    const in0_t* field = x + group * (5 + classes) * cells + (exists ? cell : 0);
    const in0_t* raw = field + 5ll * cells;
    float factor = t2r_logistic(to_float(field[4ll * cells])), largest = 0.0f;
    if (softmax) {{
        largest = -t2r_infinity();
        for (int i = threadIdx.y; i < classes; i += {SPLIT})
            largest = nan_max(largest, to_float(raw[(long long)i * cells]));
        largest = t2r_of_cell(largest, scratch, false);
        float sum = 0.0f;
        for (int i = threadIdx.y; i < classes; i += {SPLIT})
            sum += expf(to_float(raw[(long long)i * cells]) - largest);
        factor /= t2r_of_cell(sum, scratch, true);
    }}
    if (!exists) return;
    const long long row = group * cells + cell;
    for (int i = threadIdx.y; i < classes; i += {SPLIT}) {{
        const float value = to_float(raw[(long long)i * cells]);
        const float part = softmax ? expf(value - largest) : t2r_logistic(value);
        scores[row * classes + i] = from_float<out1_t>(part * factor);
    }}
    if (threadIdx.y) return;
    const float cx = (cell % w + t2r_logistic(to_float(field[0]))) / w;
    const float cy = (cell / w + t2r_logistic(to_float(field[cells]))) / h;
    const float rx = expf(to_float(field[2ll * cells])) * widths[anchor] / (2 * w);
    const float ry = expf(to_float(field[3ll * cells])) * heights[anchor] / (2 * h);
    const float corners[4] = {{cx - rx, cy - ry, cx + rx, cy + ry}};
    for (int i = 0; i < 4; i++) boxes[row * 4 + i] = from_float<out0_t>(corners[i]);
}}
"""
