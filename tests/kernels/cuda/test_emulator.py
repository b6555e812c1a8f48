"""The emulator: what it runs, and what it must refuse to run."""

import numpy as np
import pytest
from cuda_emulator.device import EmulationError
from kernel_testing import run_kernel

from torch2rt.backends.tactic import Unprepared
from torch2rt.kernels.cuda.prelude import PRELUDE

BLOCK = (64, 1, 1)


def run(body, *arguments, grid=(1, 1, 1), block=BLOCK, parameters="float* y", **options):
    source = f'{PRELUDE}\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n'
    return run_kernel(source, "k", grid, block, arguments, **options)


def floats(count=64):
    return np.zeros(count, np.float32)


def test_grid_and_block_indices():
    body = """
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const int threads = blockDim.x * blockDim.y * blockDim.z;
    y[block * threads + t2r_thread()] += block * threads + t2r_thread();
    """
    (y,) = run(body, floats(2 * 3 * 2 * 24), grid=(2, 3, 2), block=(4, 3, 2))
    assert np.array_equal(y, np.arange(y.size))


def test_barriers_static_and_dynamic_shared_memory():
    body = """
    extern __shared__ __align__(16) float moved[];
    __shared__ float first[64];
    const int i = threadIdx.x;
    first[i] = y[i];
    __syncthreads();
    moved[i] = first[63 - i];
    __syncthreads();
    y[i] = moved[(i + 1) % 64];
    """
    x = np.arange(64, dtype=np.float32)
    (y,) = run(body, x, shared_bytes=256)
    assert np.array_equal(y, np.roll(x[::-1], -1))


def test_warp_operations():
    body = """
    const int lane = threadIdx.x & 31;
    y[threadIdx.x] = __shfl_sync(~0u, lane, 3)
        + 100 * __shfl_down_sync(~0u, lane, 1)
        + 10000 * __shfl_up_sync(~0u, lane, 2, 8)
        + 1000000.0f * (__ballot_sync(~0u, lane < 2) == 3);
    """
    (y,) = run(body, floats())
    lane = np.arange(64) % 32
    down = np.minimum(lane + 1, 31)
    up = np.where(lane % 8 < 2, lane, lane - 2)
    assert np.array_equal(y, (3 + 100 * down + 10000 * up + 1000000).astype(np.float32))


def test_half_a_warp_may_work_alone():
    body = """
    float x = threadIdx.x;
    if (threadIdx.x < 16) x += __shfl_xor_sync(0xffffu, x, 1);
    __syncwarp();
    y[threadIdx.x] = x;
    """
    (y,) = run(body, floats(32), block=(32, 1, 1))
    want = np.arange(32)
    assert np.array_equal(y, np.where(want < 16, want + (want ^ 1), want))


def test_atomics_and_numbers_as_arguments():
    body = "atomicAdd(y, scale); atomicAdd((int*)y + 1, count);"
    y, _, _ = run(body, floats(2), 3, 0.5, parameters="float* y, int count, float scale",
                  grid=(2, 1, 1))
    assert y[0] == 64
    assert y.view(np.int32)[1] == 384


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 32) __syncthreads();", "32 of 64 threads have ended"),
        ("if (threadIdx.x < 32)\n__syncthreads();\nelse\n__syncthreads();", "different barriers"),
        ("if (threadIdx.x < 8) y[0] = __shfl_sync(~0u, 1, 0);", "a warp-wide operation"),
        ("if (threadIdx.x < 8) y[0] = __shfl_sync(0xf0u, 1, 0);", "lane 0 is not in the mask"),
        ("load_vec<float, 4>(y + 1);", "is not a multiple of 16 bytes"),
    ],
)
def test_what_hardware_leaves_undefined_is_an_error(body, message):
    with pytest.raises(EmulationError, match=message):
        run(body, floats())
    (y,) = run("y[threadIdx.x] = 1;", floats())  # the emulator goes on
    assert y.all()


@pytest.mark.parametrize("body", [
    "*(float2*)(y + 1) = make_float2(1, 2);",
    "y[0] = *(const float*)((const char*)y + 2);",
    "memset(y, 0, 8); ((u32*)((u16*)y + 1))[threadIdx.x] = 1;",
])
def test_misaligned_accesses_are_found(body):
    with pytest.raises(EmulationError, match=r"is not a multiple of \d bytes \(k.cu, line \d+\)"):
        run(body, floats())


def test_a_launch_that_overlaps_must_wait():
    run("t2r_wait();", floats(), overlaps=True)
    with pytest.raises(EmulationError, match=r"no thread called t2r_wait\(\)"):
        run("y[threadIdx.x] = 1;", floats(), overlaps=True)


def test_writes_behind_dynamic_shared_memory_are_found():
    body = "extern __shared__ float moved[]; moved[threadIdx.x] = 1;"
    with pytest.raises(EmulationError, match="beyond its dynamic shared memory"):
        run(body, floats(), shared_bytes=128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": (2048, 1, 1)}, "not within"),
        ({"block": (64, 64, 1)}, "4096 threads"),
        ({"grid": (1, 70000, 1)}, "not within"),
    ],
)
def test_limits(options, message):
    with pytest.raises(EmulationError, match=message):
        run("y[0] = 1;", floats(), **options)


def test_parameters_are_counted():
    with pytest.raises(EmulationError, match="has 2 parameters, 1 are given"):
        run("y[0] = count;", floats(), parameters="float* y, int count")


def test_messages_of_the_compiler_are_passed_on():
    with pytest.raises(Unprepared, match=r"k\.cu.*nonsense"):
        run("nonsense();", floats())
