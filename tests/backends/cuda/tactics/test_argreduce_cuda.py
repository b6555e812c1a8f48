"""Index of the extreme value by our kernel against the reference."""

import math

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import check_cuda_tactic, make_spec
from strided_cases import with_dtypes

from torch2rt.backends.cuda.tactics.argreduce_cuda_walk import argreduce_problem
from torch2rt.kernels.cuda.argreduce import argreduce_source
from torch2rt.layers.argreduce import ArgReduce

pytestmark = pytest.mark.usefixtures("cuda_device")
NAME = "argreduce.cuda.walk"


@pytest.mark.parametrize(("shape", "axis", "keepdim", "dtype"), with_dtypes([
    ((3, 1000), 1, False), ((2, 5, 17), 1, True), ((4000,), 0, False), ((2, 21, 6, 6), 1, False),
    ((2, 21, 6, 6), 1, True), ((2, 6, 5, 4), 3, False), ((7, 1), 1, False), ((3000, 4), 0, True),
], (torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8)))
def test_argreduce(shape, axis, keepdim, dtype):
    x = (torch.randn(shape) * 9).abs().to(dtype)
    for mode in ("max", "min"):
        check_cuda_tactic(NAME, ArgReduce(mode, axis, keepdim), [x], exact=True)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_ties_and_special_values(axis, mode):
    x = torch.randint(0, 3, (50, 50)).float()
    x[3, 7], x[3, 30], x[9, 9], x[11, 4] = math.nan, math.nan, math.inf, -math.inf
    x[20], x[:, 21] = math.nan, -math.inf
    check_cuda_tactic(NAME, ArgReduce(mode, axis), [x], exact=True)


def test_many_outputs(monkeypatch, cuda_device):
    monkeypatch.setattr(cuda_device.device, "multiprocessors", 1)
    x = torch.randint(0, 4, (2, 9, 200))
    check_cuda_tactic(NAME, ArgReduce("max", 1), [x], exact=True)


def test_pitched_operand():
    x = torch.randn(2, 16, 4, 16).half()
    check_cuda_tactic(NAME, ArgReduce("max", 1), [x], pitched={"i0": 1}, exact=True)


def test_every_architecture_compiles():
    for dtype in (torch.float16, torch.float64, torch.int64):
        for shape, axis in (((4, 50000), 1), ((30, 1000), 0)):
            spec = make_spec(ArgReduce("max", axis), [torch.zeros(shape, dtype=dtype)])
            compile_for_all(argreduce_source(argreduce_problem(spec, 132)), "argreduce")
