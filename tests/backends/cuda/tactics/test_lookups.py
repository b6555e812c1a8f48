"""Take, gather and advanced indexing, against the reference."""

import numpy as np
import pytest
import torch
from cuda_testing import (
    TACTICS,
    BlobWeights,
    check_cuda_tactic,
    cuda_spec,
    run_prepared,
)

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.layers.gather import Gather
from torch2rt.layers.index import Index
from torch2rt.layers.take import Take

pytestmark = pytest.mark.usefixtures("cuda_device")
DTYPES = [torch.uint8, torch.bfloat16, torch.float32, torch.int64]


def numbers(dtype, *shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(120).to(dtype)


def indices(length, *shape, dtype=torch.int64):
    return torch.randint(-length, length, shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis", "index_shape"), [
    ((10, 24), 0, (2, 5)),
    ((10, 5), 0, (7,)),
    ((3, 10), 1, (2, 2)),
    ((9,), 0, (3, 1, 2)),
    ((2, 8, 5, 4), 2, (3,)),
    ((2, 8, 5, 4), 1, (8,)),
    ((2, 6, 4), 1, ()),
])
def test_take(shape, axis, index_shape, dtype):
    torch.manual_seed(0)
    inputs = [numbers(dtype, *shape), indices(shape[axis], *index_shape)]
    check_cuda_tactic("take.cuda.rows", Take(axis), inputs, exact=True)
    check_cuda_tactic("take.cuda.rows", Take(axis), inputs, constants=[0], exact=True)
    check_cuda_tactic("take.cuda.rows", Take(axis), inputs, constants=[1], exact=True)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_index_dtypes(dtype):
    index = torch.tensor([0, 3, 2, 9]).to(dtype)
    check_cuda_tactic("take.cuda.rows", Take(0), [numbers(torch.float32, 10, 4), index], exact=True)


def test_embedding_of_a_pitched_table_and_result():
    inputs = [numbers(torch.float16, 6, 16), torch.tensor([[5, -1, 0]])]
    check_cuda_tactic("take.cuda.rows", Take(0), inputs, exact=True, pitched={"i0": 1, "o0": 1})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis", "index_shape"), [
    ((4, 6), 1, (4, 3)), ((4, 6), 0, (9, 5)), ((2, 8, 3, 5), 1, (2, 8, 3, 5)), ((7,), 0, (2,)),
    ((3, 5, 8), 2, (2, 5, 8)),
])
def test_gather(shape, axis, index_shape, dtype):
    torch.manual_seed(0)
    # torch.gather itself knows no negative indices.
    inputs = [numbers(dtype, *shape), torch.randint(0, shape[axis], index_shape)]
    check_cuda_tactic("gather.cuda.elements", Gather(axis), inputs, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axes", "index_shapes"), [
    ((5, 6, 8), (0, 1), [(4,), (4,)]),
    ((5, 6, 8), (0, 2), [(4,), (4,)]),
    ((5, 6, 8), (1, 2), [(3, 1), (4,)]),
    ((5, 6, 7, 8), (1, 2), [(2, 3), (2, 3)]),
    ((5, 6, 7, 8), (0, 2), [(1,), (5,)]),
    ((5, 6, 7, 8), (0, 1, 3), [(3,), (), (2, 1)]),
])
def test_index(shape, axes, index_shapes, dtype):
    torch.manual_seed(0)
    given = [indices(shape[axis], *size) for axis, size in zip(axes, index_shapes, strict=True)]
    check_cuda_tactic("index.cuda.elements", Index(axes), [numbers(dtype, *shape), *given],
                      exact=True)


@pytest.mark.parametrize(("dtype", "missing"), [
    (torch.float16, float("nan")), (torch.float32, float("nan")), (torch.int64, 0),
])
def test_nothing_outside_is_read(cuda_device, dtype, missing):
    x = numbers(dtype, 6, 8) + 1
    index = torch.tensor([2, 6, -7, 2**40, -6])
    spec = cuda_spec(Take(0), [x, index])
    with preparing_for(cuda_device.device):
        prepared = find_tactic(TACTICS, "take.cuda.rows").prepare(spec, BlobWeights({}))
    (result,) = run_prepared(prepared, spec, [x, index])
    want = torch.stack([x[2], *[torch.full((8,), missing).to(dtype)] * 3, x[0]])
    assert np.array_equal(result.numpy(), want.numpy(), equal_nan=dtype.is_floating_point)
