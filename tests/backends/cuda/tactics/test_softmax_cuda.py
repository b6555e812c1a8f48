"""Softmax by our kernel against the reference."""

import math

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import check_cuda_tactic, make_spec
from strided_cases import with_dtypes

from torch2rt.backends.cuda.tactics.softmax_cuda_walk import softmax_problem
from torch2rt.kernels.cuda.softmax import softmax_source
from torch2rt.layers.softmax import Softmax

pytestmark = pytest.mark.usefixtures("cuda_device")
NAME = "softmax.cuda.walk"
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize(("shape", "axis", "dtype"), with_dtypes([
    ((3, 1000), 1), ((2, 5, 17), 2), ((40, 8), 1), ((2, 3, 24, 24), 3), ((1, 5000), 1),
    ((7, 1), 1), ((9,), 0), ((150, 24), 1), ((2, 9000), 1),
    ((2, 21, 6, 6), 1), ((2, 16, 5, 8), 2), ((3, 30), 0), ((2, 70, 16), 1), ((2, 3, 5, 7), 0),
]))
def test_softmax(shape, axis, is_log, dtype):
    x = torch.randn(shape).mul(4).to(dtype)
    check_cuda_tactic(NAME, Softmax(axis, is_log), [x], layouts=2 if len(shape) == 4 else 1)


def test_doubles_and_rows_that_no_block_holds():
    check_cuda_tactic(NAME, Softmax(1), [torch.randn(2, 40).double()])
    check_cuda_tactic(NAME, Softmax(1, True), [torch.randn(1, 70001)])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(axis, is_log, dtype):
    x = torch.randn(40, 40).to(dtype)
    x[0, 0], x[3, 4], x[8, 9] = math.nan, math.inf, -math.inf
    x[12], x[:, 13] = -math.inf, -math.inf
    x[20, 5:], x[21:, 20] = -math.inf, -math.inf
    check_cuda_tactic(NAME, Softmax(axis, is_log), [x])


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_pitched_operands(axis):
    x = torch.randn(2, 16, 4, 16).half()
    check_cuda_tactic(NAME, Softmax(axis), [x], pitched={"i0": 1, "o0": 2})


def test_every_architecture_compiles():
    for dtype in (torch.bfloat16, torch.float64):
        for shape, axis in (((64, 1000), 1), ((1, 500000), 1), ((64, 512), 0)):
            spec = make_spec(Softmax(axis), [torch.zeros(shape, dtype=dtype)])
            compile_for_all(softmax_source(softmax_problem(spec, 132)), "softmax")


@pytest.mark.parametrize("columns", [21, 64, 100, 3])
def test_many_short_rows(columns, monkeypatch, cuda_device):
    monkeypatch.setattr(cuda_device.device, "multiprocessors", 1)
    check_cuda_tactic(NAME, Softmax(1), [torch.randn(77, columns).half()])
