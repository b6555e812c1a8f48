"""Memory filled with a pattern. Grid: vectors. Bytes moved: those written. Architectures: any."""

from __future__ import annotations

from torch2rt.kernels.cuda.moves import MOVES, vector_type

NAME = "t2r_fill"
THREADS = 256


def fill_source(vector_bytes: int) -> str:
    """The kernel; arguments: target, vectors, the pattern of 8 bytes."""
    vector = vector_type(vector_bytes)
    return f"""{MOVES}
extern "C" __global__ void __launch_bounds__({THREADS}) {NAME}(
    void* target, u32 count, u64 pattern
) {{
    const u32 flat = blockIdx.x * blockDim.x + threadIdx.x;
    t2r_wait();
    if (flat < count) (({vector}*)target)[flat] = t2r_pattern<{vector}>(pattern);
}}
"""
