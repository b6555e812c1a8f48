"""Conversions, wide accesses and reductions of the prelude, on the emulator and in NVRTC."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_compile import compile_for_all
from kernel_testing import run_kernel

from torch2rt.kernels.cuda import prelude
from torch2rt.kernels.cuda.prelude import PRELUDE

SPECIAL = [0.0, -0.0, 1.0, -1.5, 65504.0, 65519.9, 65520.0, 1e-8, 6e-8, 3.4e38, 1e-40]
CONVERT = PRELUDE + """
extern "C" __global__ void convert(const float* x, TYPE* y, float* z, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    t2r_wait();
    if (i >= count) return;
    y[i] = from_float<TYPE>(x[i]);
    z[i] = to_float(y[i]);
}
"""


def every_half_and_between():
    """All finite float16 values, the middles between them, special values."""
    halves = torch.arange(0, 0x7C00, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    middles = (halves[1:] + halves[:-1]) / 2
    values = torch.cat([halves, middles, torch.tensor(SPECIAL)])
    return torch.cat([values, -values, torch.tensor([torch.inf, -torch.inf, torch.nan])])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conversions_round_to_nearest_even(cuda_device, dtype):
    x = every_half_and_between()
    source = CONVERT.replace("TYPE", {torch.float16: "f16", torch.bfloat16: "bf16"}[dtype])
    bits, back = run_kernel(
        source, "convert", (-(-x.numel() // 256), 1, 1), (256, 1, 1),
        [x.numpy(), np.zeros(x.numel(), np.int16), np.zeros(x.numel(), np.float32), x.numel()],
    )[1:3]
    want = x.to(dtype)
    got = torch.from_numpy(bits).view(dtype)
    assert torch.equal(got.isnan(), want.isnan())
    got, want = (value.nan_to_num(0.5, torch.inf, -torch.inf) for value in (got, want))
    assert torch.equal(got.view(torch.int16), want.view(torch.int16))
    assert torch.equal(torch.from_numpy(back).nan_to_num(0.5, torch.inf, -torch.inf), want.float())


VECTORS = PRELUDE + """
template <class T, int N> T2R_DEVICE void copy(const void* x, void* y) {
    float values[N];
    load_floats<T, N>(values, (const T*)x);
    store_floats<T, N>((T*)y, values);
}
extern "C" __global__ void vectors(const u8* x, u8* y) {
    copy<f16, 8>(x, y);
    copy<bf16, 8>(x + 16, y + 16);
    copy<float, 8>(x + 32, y + 32);
    copy<f16, 4>(x + 64, y + 64);
    copy<bf16, 2>(x + 72, y + 72);
    copy<f16, 1>(x + 76, y + 76);
    copy<i8, 2>(x + 78, y + 78);
    store_vec(y + 80, load_vec<i64, 2>(x + 80));
}
"""


def test_vectors_move_whole_words(cuda_device):
    x = np.random.default_rng(0).integers(0, 60, 96).astype(np.uint8)  # no NaN as bits
    y = run_kernel(VECTORS, "vectors", (1, 1, 1), (1, 1, 1), [x, np.zeros(96, np.uint8)])[1]
    assert np.array_equal(x, y)


REDUCE = PRELUDE + """
extern "C" __global__ void __launch_bounds__(256) reduce(const float* x, float* y) {
    __shared__ float scratch[32];
    t2r_wait();
    const float value = x[blockIdx.x * 256 + threadIdx.x];
    const float sum = block_sum<256>(value, scratch);
    const float most = block_max<256>(value, scratch);
    const float least = warp_min(value);
    if (threadIdx.x == 255) {
        y[blockIdx.x * 3] = sum;
        y[blockIdx.x * 3 + 1] = most;
        y[blockIdx.x * 3 + 2] = least;
    }
}
"""


def test_reductions_over_warp_and_block(cuda_device):
    x = np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32)
    x[1, 77] = np.nan
    x[2, 250] = -np.inf
    y = run_kernel(REDUCE, "reduce", (3, 1, 1), (256, 1, 1), [x, np.zeros((3, 3), np.float32)])[1]
    want = np.stack([x.sum(1), x.max(1), x[:, 224:].min(1)], 1)
    np.testing.assert_allclose(y, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "name"), [(CONVERT.replace("TYPE", "bf16"), "convert"), (VECTORS, "vectors"),
                         (REDUCE, "reduce")],
)
def test_it_compiles_for_every_architecture(source, name):
    compile_for_all(source, name)


def test_what_other_kernels_write_is_not_read_as_invariant():
    """The compiler may move loads through ``const T* __restrict__`` above `t2r_wait`."""
    folder = Path(inspect.getfile(prelude)).parent
    found = [
        (path.name, name)
        for path in folder.glob("*.py")
        for name in re.findall(r"const \S+ ?\* ?__restrict__ (\w+)", path.read_text())
    ]
    assert found
    assert {name for _, name in found} == {"weight"}
