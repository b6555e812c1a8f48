"""Group norm and instance norm by our kernels against the reference."""

import math

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import TACTICS, check_cuda_tactic, make_spec
from strided_cases import with_dtypes

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.tactics.group_norm_cuda_walk import group_norm_problem
from torch2rt.kernels.cuda.group_norm import apply_source, finish_source, statistics_source
from torch2rt.layers.group_norm import GroupNorm

pytestmark = pytest.mark.usefixtures("cuda_device")
NAME = "group_norm.cuda.walk"


@pytest.mark.parametrize(("shape", "groups", "dtype"), with_dtypes([
    ((2, 32, 7, 9), 4), ((1, 320, 8, 8), 32), ((2, 6, 5, 5), 6), ((1, 15, 4, 6), 3),
    ((2, 12, 11), 2), ((3, 24), 4), ((1, 8, 3, 4, 5), 2), ((1, 16, 40, 40), 1),
], (torch.bfloat16, torch.float32, torch.float64)))
def test_group_norm(shape, groups, dtype):
    x = (torch.randn(shape) * 2 + 1).to(dtype)
    affine = torch.float64 if dtype is torch.float64 else torch.float32
    weight, bias = torch.randn(shape[1]).to(affine), torch.randn(shape[1]).to(affine)
    kind = GroupNorm(groups, 1e-5, True, True)
    check_cuda_tactic(NAME, kind, [x, weight, bias], constants=[1, 2])


@pytest.mark.parametrize(("has_weight", "has_bias"), [(True, False), (False, True), (False, False)])
def test_affine_in_half_precision(has_weight, has_bias):
    x = torch.randn(2, 16, 6, 6).half()
    terms = [torch.randn(16).half() for _ in range(has_weight + has_bias)]
    check_cuda_tactic(NAME, GroupNorm(4, 1e-3, has_weight, has_bias), [x, *terms])


def test_a_mean_far_from_zero():
    # y = x * factor - mean * factor: rounding of a term of 100 standard deviations.
    x = torch.randn(1, 8, 30, 30) + 100
    check_cuda_tactic(NAME, GroupNorm(2, 1e-5), [x], tolerance=1e-5 + 100 * 2**-23)


def test_nan_and_infinity():
    x = torch.randn(2, 8, 5, 5)
    x[0, 1, 2, 2], x[1, 6, 0, 0] = math.nan, math.inf
    check_cuda_tactic(NAME, GroupNorm(4, 1e-5), [x])


def test_pitched_operands():
    x = torch.randn(2, 16, 4, 16).half()
    check_cuda_tactic(NAME, GroupNorm(4, 1e-5), [x], pitched={"i0": 1, "o0": 1})


def test_every_architecture_compiles():
    for dtype in (torch.bfloat16, torch.float64):
        x = torch.zeros(2, 320, 64, 64, dtype=dtype)
        kind = GroupNorm(32, 1e-5, True, True)
        spec = make_spec(kind, [x, torch.zeros(320), torch.zeros(320)])
        for choice in find_tactic(TACTICS, NAME).layouts(spec):
            problem = group_norm_problem(spec.with_layouts(choice), 132)
            compile_for_all(statistics_source(problem), "group_statistics")
            compile_for_all(finish_source(problem), "group_finish")
            compile_for_all(apply_source(problem), "group_apply")
