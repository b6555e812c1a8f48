"""Kernels of users in CUDA C++: launches, workspaces, rivals, dtypes, numbers."""

from __future__ import annotations

import pytest
import torch
from cuda_testing import BlobWeights, assert_refused, check_cuda_tactic, cuda_spec, emulated
from torch import Tensor, nn

import torch2rt
from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.tactic import Unprepared
from torch2rt.capture.export import capture
from torch2rt.errors import PluginError
from torch2rt.layers.plugin import Plugin
from torch2rt.layers.specialize import specialize_kind
from torch2rt.lower import lower
from torch2rt.network.dtype import DType
from torch2rt.plugin import CudaKernel, Int64, ceil_div, count

SCALE = r"""
extern "C" __global__ void scale(const in0_t* x, const in1_t* w, out0_t* y, int n, float factor) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = from_float<out0_t>(to_float(x[i]) * to_float(w[i % 5]) * factor);
}"""
SQUARES = r"""
extern "C" __global__ void squares(const float* x, float* y, float* work, i64 n) {
    const i64 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) work[i] = x[i] * x[i];
}"""
SUMS = r"""
extern "C" __global__ void sums(const float* x, float* y, const float* work, int rows, int m) {
    extern __shared__ float part[];
    const int row = blockIdx.x;
    part[threadIdx.x] = 0.0f;
    for (int i = threadIdx.x; i < m; i += blockDim.x) part[threadIdx.x] += work[row * m + i];
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0.0f;
        for (int i = 0; i < blockDim.x; ++i) sum += part[i];
        y[row] = sum;
    }
}"""
X = torch.randn(2, 3)


def flat(shapes, attributes):
    return ceil_div(count(shapes.outputs[0]), 64)


def kind_of(function, x, *arguments):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(5))

        def forward(self, x):
            return function(x, *arguments) if arguments else function(x, self.w, 1.5)

    network = lower(capture(Model().eval(), (x,), {})).network
    (layer,) = (y for y in network.layers if isinstance(y.kind, Plugin))
    return specialize_kind(layer.kind, {name: x.shape[0] for name in network.symbols})


@pytest.fixture
def scale():
    @torch2rt.plugin(
        "t_kernels::scale", precisions=("fp32", "fp16", "bf16"),
        cuda=[[CudaKernel(SCALE, "scale", grid=flat, block=64)],
              [CudaKernel(SCALE.replace("% 5", "% 5 "), "scale", grid=flat, block=(32, 2))]],
    )
    def scale(x: Tensor, w: Tensor, factor: float) -> Tensor:
        return x * w * factor

    return scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_source_for_all_dtypes(scale, dtype, cuda_device):
    x, w = torch.randn(7, 5), torch.randn(5)
    kind = kind_of(scale, x)
    check_cuda_tactic(
        "plugin.cuda.first", kind, [x.to(dtype), w.to(dtype)], constants=(1,),
        out_dtype={torch.float16: DType.FLOAT16, torch.bfloat16: DType.BFLOAT16}.get(dtype),
    )


def test_rivals_are_tactics_and_blocks_may_have_axes(scale):
    x, w = torch.randn(7, 5), torch.randn(5)
    kind = kind_of(scale, x)
    spec = cuda_spec(kind, [x, w])
    taken = [
        name for name in ("first", "second", "third", "fourth")
        if find_tactic("torch2rt.backends.cuda.tactics", f"plugin.cuda.{name}").supports(spec)
        is None
    ]
    assert taken == ["first", "second"]
    double = [tensor.double() for tensor in (x, w)]
    assert_refused("plugin.cuda.first", kind, double, reason="t_kernels::scale is declared for "
                   "float32, float16, bfloat16, not float64")
    assert_refused("plugin.triton.first", kind, [x, w], reason="the plugin has 0 ways in Triton")


def test_launches_one_after_the_other_share_a_workspace(cuda_device):
    def rows(shapes):
        return shapes.inputs[0][0]

    @torch2rt.plugin("t_kernels::norms", workspace=lambda s, a: 4 * count(s.inputs[0]), cuda=[
        CudaKernel(SQUARES, "squares", grid=lambda s, a: ceil_div(count(s.inputs[0]), 256),
                   numbers=lambda s, a: [Int64(count(s.inputs[0]))]),
        CudaKernel(SUMS, "sums", grid=lambda s, a: rows(s), block=32, shared=128,
                   numbers=lambda s, a: [rows(s), s.inputs[0][1]]),
    ])
    def norms(x: Tensor, power: int) -> Tensor:
        return (x**power).sum(1)

    x = torch.randn(6, 300)
    check_cuda_tactic("plugin.cuda.first", kind_of(norms, x, 2), [x])


def test_a_number_beyond_its_type_and_shared_memory_beyond_the_devices():
    for option, reason in (
        ({"numbers": lambda s, a: [2**31]}, r"2147483648 is no 32-bit integer: give Int64"),
        ({"shared": 10**9}, "k wants 1000000000 bytes of shared memory of"),
    ):
        kernel = CudaKernel(EMPTY, "k", grid=lambda s, a: 1, **option)
        body = torch2rt.plugin("t_kernels::large", cuda=kernel)(_same)
        with pytest.raises(Unprepared, match=reason):
            prepare(body, X)


def _same(x: Tensor, times: int) -> Tensor:
    return x * times


def test_a_raw_kernel_of_cupy_is_taken_over():
    class Raw:
        code, name = SCALE, "scale"

    kernel = CudaKernel.from_raw(Raw(), flat, 128, 4)
    assert (kernel.source, kernel.entry, kernel.block, kernel.shared) == (SCALE, "scale", 128, 4)


EMPTY = 'extern "C" __global__ void k(const float* x, float* y, int n) {}'


def prepare(body, x):
    kind = kind_of(body, x, 1)
    with preparing_for(emulated().device):
        return find_tactic("torch2rt.backends.cuda.tactics", "plugin.cuda.first").prepare(
            cuda_spec(kind, [x]), BlobWeights({})
        )


def test_nothing_is_launched_for_an_empty_grid():
    kernel = CudaKernel(EMPTY, "k", grid=lambda s, a: s.inputs[0][1] - 3)
    assert not prepare(torch2rt.plugin("t_kernels::empty", cuda=kernel)(_same), X).launches


def test_a_kernel_that_does_not_compile_is_an_error_of_its_plugin():
    kernel = CudaKernel(EMPTY.replace("{}", "{ y[0] = lost; }"), "k", grid=lambda s, a: 1)
    body = torch2rt.plugin("t_kernels::typo", cuda=kernel)(_same)
    with pytest.raises(PluginError, match=r"'t_kernels::typo', layer tested \(tests\): its kernel "
                       r"k does not compile:\n(.|\n)*plugin:1:.*lost"):
        prepare(body, X)
