"""Adaptive pooling by our kernel against the reference."""

import math

import pytest
import torch
from cuda_testing import check_cuda_tactic
from strided_cases import with_dtypes

from torch2rt.layers.adaptive_pool import AdaptivePool

pytestmark = pytest.mark.usefixtures("cuda_device")
NAME = "adaptive_pool.cuda.direct"


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize(("shape", "size", "dtype"), with_dtypes([
    ((2, 16, 10, 13), (6, 6)), ((1, 5, 7, 7), (3, 2)), ((1, 8, 3, 3), (7, 7)),
    ((2, 4, 11), (5,)), ((1, 8, 5, 6, 7), (2, 4, 3)), ((1, 24, 13, 13), (6, 6)),
]))
def test_adaptive_pool(shape, size, mode, dtype):
    x = torch.randn(shape).to(dtype)
    check_cuda_tactic(NAME, AdaptivePool(mode, size), [x], exact=mode == "max")


def test_nan_of_a_max_and_pitched_operands():
    x = torch.randn(1, 8, 9, 16).half()
    x[0, 3, 4, 4] = math.nan
    kind = AdaptivePool("max", (4, 8))
    check_cuda_tactic(NAME, kind, [x], pitched={"i0": 1, "o0": 1})
