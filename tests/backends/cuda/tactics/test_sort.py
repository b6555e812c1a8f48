"""Sort and top k, against the reference."""

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic

from torch2rt.layers.sort import Sort

pytestmark = pytest.mark.usefixtures("cuda_device")
INF, NAN = float("inf"), float("nan")
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, torch.bool])
def test_sort_is_stable(dtype, is_descending):
    torch.manual_seed(0)
    if dtype.is_floating_point:
        x = torch.randint(-20, 20, (3, 70)).to(dtype) / 4
        x[0, [5, 9, 30]] = torch.tensor([NAN, -NAN, INF]).to(dtype)
        x[1, [2, 3, 40]] = torch.tensor([-0.0, 0.0, -INF]).to(dtype)
    elif dtype in (torch.bool, torch.uint8):
        x = torch.randint(0, 256, (3, 70)).to(dtype)
    else:
        limits = torch.iinfo(dtype)
        x = torch.randint(limits.min // 2, limits.max // 2, (3, 70)).to(dtype)
        x[0, [7, 8]] = torch.tensor([limits.min, limits.max], dtype=dtype)
        x[1] = x[1] % 5
    check_cuda_tactic("sort.cuda.bitonic", Sort(1, is_descending), [x])


@pytest.mark.parametrize(("shape", "axis"), [((7,), 0), ((5, 3), 0), ((2, 130, 3), 1), ((4, 1), 1)])
def test_axes(shape, axis):
    check_cuda_tactic("sort.cuda.bitonic", Sort(axis), [torch.rand(*shape)])


@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize(("shape", "axis", "count"), [
    ((3, 100), 1, 5), ((3, 100), 1, 100), ((130, 2), 0, 1), ((1, 4500), 1, 300),
])
def test_top_k(shape, axis, count, is_descending):
    torch.manual_seed(0)
    x = torch.randperm(torch.Size(shape).numel()).reshape(shape).float()  # no equal values
    check_cuda_tactic("sort.cuda.bitonic", Sort(axis, is_descending, count), [x])


def test_lines_beyond_shared_memory_are_refused():
    x = torch.rand(1, 20000)
    assert_refused("sort.cuda.bitonic", Sort(1), [x], reason="20000 of 20000 elements")
