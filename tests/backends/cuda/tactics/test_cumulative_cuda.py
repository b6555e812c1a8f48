"""Running sums and the like by our kernel against the reference."""

import math

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import check_cuda_tactic, make_spec
from strided_cases import with_dtypes

from torch2rt.backends.cuda.tactics.cumulative_cuda_walk import cumulative_problem
from torch2rt.kernels.cuda.cumulative import cumulative_source
from torch2rt.layers.cumulative import Cumulative

pytestmark = pytest.mark.usefixtures("cuda_device")
NAME = "cumulative.cuda.walk"
OTHERS = (torch.bfloat16, torch.float32, torch.float64)
SHAPES = [((3, 600), 1), ((2, 5, 17), 1), ((300,), 0), ((2, 9, 6, 6), 1), ((2, 6, 5, 20), 3),
          ((7, 1), 1), ((20, 2100), 0), ((3, 256), 1)]


@pytest.mark.parametrize("mode", ["sum", "logsumexp"])
@pytest.mark.parametrize(("shape", "axis", "dtype"), with_dtypes(SHAPES, OTHERS))
def test_floats(shape, axis, mode, dtype):
    check_cuda_tactic(NAME, Cumulative(mode, axis), [torch.randn(shape).to(dtype)])


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_products_and_integers(shape, axis):
    x = torch.rand(shape) * 0.2 + 0.9
    # Each of up to 2100 factors may add a rounding error of 6e-8.
    check_cuda_tactic(NAME, Cumulative("prod", axis), [x], tolerance=1.3e-4)
    whole = torch.randint(-5, 6, shape)
    check_cuda_tactic(NAME, Cumulative("sum", axis), [whole + 2**33], exact=True)
    check_cuda_tactic(NAME, Cumulative("prod", axis), [whole], exact=True)
    check_cuda_tactic(NAME, Cumulative("sum", axis), [whole.int() * 2**20], exact=True)


@pytest.mark.parametrize("mode", ["sum", "prod", "logsumexp"])
def test_special_values(mode):
    x = torch.randn(6, 40)
    x[0, 5], x[1, 5], x[2, 5], x[3, :9], x[4] = math.nan, math.inf, -math.inf, -math.inf, -math.inf
    x[5, 3], x[5, 9] = math.inf, -math.inf
    check_cuda_tactic(NAME, Cumulative(mode, 1), [x])


def test_pitched_operands():
    x = torch.randn(2, 16, 4, 16).half()
    check_cuda_tactic(NAME, Cumulative("sum", 1), [x], pitched={"i0": 1, "o0": 2})


def test_every_architecture_compiles():
    for dtype in (torch.bfloat16, torch.int64):
        for mode in ("sum", "prod", *(["logsumexp"] if dtype.is_floating_point else [])):
            for shape, axis in (((4, 50000), 1), ((30, 5000), 0)):
                spec = make_spec(Cumulative(mode, axis), [torch.zeros(shape, dtype=dtype)])
                compile_for_all(cumulative_source(cumulative_problem(spec)), "cumulative")
