"""`check_cuda_tactic` finds what it is there to find: each mutated kernel is caught."""

import cuda_testing
import pytest
import torch
from cuda_testing import check_cuda_tactic

from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.launch import I32, In, KernelPrepared, Launch, Out, Work
from torch2rt.backends.tactic import Tactic
from torch2rt.expression import parse_expression
from torch2rt.kernels.cuda.prelude import PRELUDE
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType

KIND = Pointwise(parse_expression("mul(i0,2.0)"), DType.FLOAT32)
RIGHT = "if (i < count) y[i] = 2.0f * x[i];"


class Double(Tactic):
    """y = 2x with a kernel whose body is given."""

    name = "pointwise.cuda.double"
    kinds = ("pointwise",)

    def __init__(self, body, may_overwrite=(0,), wait="t2r_wait();"):
        self.body, self.may_overwrite, self.wait = body, may_overwrite, wait

    def supports(self, spec):
        return None

    def takes_pitch(self, spec):
        return True

    def prepare(self, spec, weights):
        source = f"""{PRELUDE}
extern "C" __global__ void k(float* x, float* y, float* work, int count) {{
    __shared__ float tile[64];
    const int i = blockIdx.x * 64 + threadIdx.x;
    {self.wait}
    {self.body}
}}
"""
        count = spec.outputs[0].element_count
        kernel = cpp_kernel(weights, "k", source)
        launch = Launch(
            kernel, (-(-count // 64), 1, 1), (64, 1, 1), [In(0), Out(), Work(), I32(count)],
            overlaps=True,
        )
        return KernelPrepared([launch], workspace_bytes=64, may_overwrite=self.may_overwrite)


def check(monkeypatch, tactic, **options):
    monkeypatch.setattr(cuda_testing, "find_tactic", lambda package, name: tactic)
    check_cuda_tactic(tactic.name, KIND, [torch.randn(5, 20)], **options)


def test_the_right_kernel_passes(monkeypatch):
    check(monkeypatch, Double(RIGHT))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (i < count) y[i] = 2.001f * x[i];", "error"),
        ("if (i < count - 1) y[i] = 2.0f * x[i];", "not finite|error"),
        ("y[i] = 2.0f * x[i];", "outside of the operands"),
        (RIGHT + "y[-1] = 1.0f;", "outside of the operands.*offset -4"),
        (RIGHT + "if (i == 3) x[3] = 1.0f;", "was changed"),
        (RIGHT + "work[16] = 1.0f;", "behind the workspace"),
        (RIGHT + "if (i == 3) y[3] += work[0];", "not finite|error"),
        ("tile[threadIdx.x] = x[i]; if (i < count) y[i] = tile[threadIdx.x ^ 1];",
         "not finite|error"),
    ],
)
def test_a_wrong_kernel_is_found(monkeypatch, body, message):
    with pytest.raises(AssertionError, match=message):
        check(monkeypatch, Double(body, may_overwrite=()))


def test_an_overwritten_input_that_is_read_again_is_found(monkeypatch):
    body = "if (i < count) { y[i] = 0.0f; y[i] = 2.0f * x[i]; }"
    check(monkeypatch, Double(body, may_overwrite=()))
    with pytest.raises(AssertionError, match="in place of 0"):
        check(monkeypatch, Double(body))


@pytest.mark.parametrize("neighbour", ["threadIdx.x + 1", "threadIdx.x + 63"])
def test_a_forgotten_barrier_is_found_in_either_direction(monkeypatch, neighbour):
    body = f"""
    const int other = ({neighbour}) % 64, first = blockIdx.x * 64;
    tile[threadIdx.x] = i < count ? x[i] : 0.0f;
    BARRIER
    if (first + other < count) y[first + other] = 2.0f * tile[other];
    """
    check(monkeypatch, Double(body.replace("BARRIER", "__syncthreads();"), ()))
    with pytest.raises(AssertionError):
        check(monkeypatch, Double(body.replace("BARRIER", ""), ()))


def test_gaps_of_pitched_operands_are_guarded(monkeypatch):
    body = "if (i < 100) y[i / 20 * 32 + i % 20] = 2.0f * x[i];"
    check(monkeypatch, Double(body, ()), pitched={"o0": 1})
    with pytest.raises(AssertionError, match="outside of the operands"):
        check(monkeypatch, Double(body + "if (i == 0) y[20] = 0.0f;", ()), pitched={"o0": 1})
