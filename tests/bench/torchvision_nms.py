"""torchvision's NMS for CUDA, written out, for where its extension does not load.

The same two kernels (torchvision/csrc/ops/cuda/nms_kernel.cu): a matrix of bits over all pairs of
boxes sorted by score, then one block that walks over it. Sorting is torch's, as there.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

THREADS = 64
SOURCE = r"""
typedef unsigned long long u64;

__device__ bool overlaps(const float* a, const float* b, float threshold) {
    const float left = fmaxf(a[0], b[0]), right = fminf(a[2], b[2]);
    const float top = fmaxf(a[1], b[1]), bottom = fminf(a[3], b[3]);
    const float width = fmaxf(right - left, 0.0f), height = fmaxf(bottom - top, 0.0f);
    const float both = width * height;
    const float first = (a[2] - a[0]) * (a[3] - a[1]), second = (b[2] - b[0]) * (b[3] - b[1]);
    return both / (first + second - both) > threshold;
}

extern "C" __global__ void nms_mask(int n, float threshold, const float* boxes, u64* mask) {
    const int row = blockIdx.y, column = blockIdx.x;
    if (row > column) return;
    const int rows = min(n - row * 64, 64), columns = min(n - column * 64, 64);
    __shared__ float block[64 * 4];
    if ((int)threadIdx.x < columns)
        for (int i = 0; i < 4; i++)
            block[threadIdx.x * 4 + i] = boxes[(64 * column + threadIdx.x) * 4 + i];
    __syncthreads();
    if ((int)threadIdx.x < rows) {
        const int current = 64 * row + threadIdx.x;
        u64 bits = 0;
        for (int i = row == column ? threadIdx.x + 1 : 0; i < columns; i++)
            if (overlaps(boxes + current * 4, block + i * 4, threshold)) bits |= 1ull << i;
        mask[(long long)current * gridDim.x + column] = bits;
    }
}

extern "C" __global__ void nms_gather(bool* keep, const u64* mask, int n) {
    const int blocks = (n + 63) / 64, thread = threadIdx.x;
    extern __shared__ u64 removed[];
    for (int i = thread; i < blocks; i += blockDim.x) removed[i] = 0;
    __syncthreads();
    for (int block = 0; block < blocks; block++) {
        const u64 gone = removed[block];
        __syncthreads();
        const int first = block * 64;
        u64 now = gone;
        for (int inner = 0; inner < 64 && first + inner < n; inner++) {
            const int i = first + inner;
            if (!(now >> inner & 1)) {
                if (thread == 0) keep[i] = true;
                const u64* row = mask + (long long)i * blocks;
                for (int j = thread; j < blocks; j += blockDim.x)
                    if (j >= block) removed[j] |= row[j];
                __syncthreads();
                now = removed[block];
            }
        }
        __syncthreads();
    }
}
"""


@cache
def _kernels() -> tuple[Any, Any]:
    import cupy

    module = cupy.RawModule(code=SOURCE, options=("--std=c++17",))
    gather = module.get_function("nms_gather")
    gather.max_dynamic_shared_size_bytes = 96 * 1024
    return module.get_function("nms_mask"), gather


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """`torchvision.ops.nms` of float32 boxes [n, 4] on a GPU -> kept indices, best first."""
    import cupy

    mask_kernel, gather_kernel = _kernels()
    n = len(boxes)
    order = scores.sort(stable=True, descending=True).indices
    by_score = boxes[order].contiguous()
    blocks = -(-n // THREADS)
    mask = torch.empty(n * blocks, dtype=torch.int64, device=boxes.device)
    keep = torch.zeros(n, dtype=torch.bool, device=boxes.device)
    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)
    with stream:
        mask_kernel((blocks, blocks), (THREADS,), (
            cupy.int32(n), cupy.float32(iou_threshold), _address(by_score), _address(mask),
        ))
        gather_kernel((1,), (min(blocks, 1024),), (_address(keep), _address(mask), cupy.int32(n)),
                      shared_mem=blocks * 8)
    return order[keep]


def _address(tensor: torch.Tensor) -> Any:
    import cupy

    return cupy.uint64(tensor.data_ptr())
