"""Scatter and index_put, against the reference."""

import pytest
import torch
from cuda_testing import (
    TACTICS,
    BlobWeights,
    assert_refused,
    check_cuda_tactic,
    cuda_spec,
    run_prepared,
)

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.layers.index_put import IndexPut
from torch2rt.layers.scatter import Scatter

pytestmark = pytest.mark.usefixtures("cuda_device")
DTYPES = [torch.uint8, torch.float16, torch.float32, torch.int64]
SHAPES = [
    ((4, 6), 1, (4, 3), (4, 5)), ((6, 4), 0, (5, 3), (5, 3)), ((9,), 0, (4,), (4,)),
    ((2, 8, 3, 5), 1, (2, 4, 3, 5), (2, 4, 3, 5)), ((3, 5, 8), 2, (2, 5, 7), (3, 5, 7)),
    ((3, 5), 1, (3, 0), (3, 2)),
]


def numbers(dtype, *shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(120).to(dtype)


def different_indices(length, axis, shape):
    """Along the axis no index comes twice, so that no two values go to one place."""
    order = torch.rand(*shape[:axis], length, *shape[axis + 1 :]).argsort(axis)
    return order.narrow(axis, 0, shape[axis]).contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis", "index_shape", "source_shape"), SHAPES)
def test_scatter(shape, axis, index_shape, source_shape, dtype):
    torch.manual_seed(0)
    index = different_indices(shape[axis], axis, index_shape)
    inputs = [numbers(dtype, *shape), index, numbers(dtype, *source_shape) + 3]
    check_cuda_tactic("scatter.cuda.set", Scatter(axis), inputs, exact=True)
    check_cuda_tactic("scatter.cuda.set", Scatter(axis), inputs, exact=True, constants=[0, 2])
    assert_refused("scatter.cuda.combine", Scatter(axis), inputs, reason="replace")


@pytest.mark.parametrize(("mode", "dtype"), [
    ("sum", torch.float16), ("sum", torch.float64), ("prod", torch.bfloat16),
    ("prod", torch.int32), ("amax", torch.float16), ("amin", torch.int64),
    ("mean", torch.float32), ("mean", torch.int64),
])
@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize(("shape", "axis", "index_shape", "source_shape"), SHAPES)
def test_scatter_that_combines(
    shape, axis, index_shape, source_shape, include_self, mode, dtype
):
    torch.manual_seed(0)
    index = torch.randint(0, min(3, shape[axis]), index_shape)
    x = torch.randint(-9, 9, shape).to(dtype)
    source = torch.randint(-9, 9, source_shape).to(dtype)
    if dtype.is_floating_point:
        source[..., 0] += float("nan")
        source[..., 1] += 0.25
    kind = Scatter(axis, mode, include_self)
    check_cuda_tactic("scatter.cuda.combine", kind, [x, index, source])
    assert_refused("scatter.cuda.set", kind, [x, index, source], reason=mode)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("shape", "axes", "index_shapes", "values_shape"), [
    ((5, 6, 8), (0, 1), [(4,), (4,)], (4, 8)),
    ((5, 6, 8), (1,), [(3,)], (5, 3, 8)),
    ((5, 6, 8), (0,), [(3,)], (8,)),
    ((5, 6, 8), (0, 2), [(4,), (4,)], (4, 6)),
    ((5, 6, 7), (0, 1, 2), [(4,), (4,), (4,)], ()),
    ((2, 8, 3, 5), (2, 3), [(2, 1), (3,)], (2, 8, 2, 3)),
])
def test_index_put(shape, axes, index_shapes, values_shape, accumulate, dtype):
    torch.manual_seed(0)
    given = []
    for axis, size in zip(axes, index_shapes, strict=True):
        count = torch.Size(size).numel()
        order = torch.arange(shape[axis]) if accumulate else torch.randperm(shape[axis])
        given.append((order[:count] - shape[axis] * (axis % 2)).reshape(size))
    if accumulate:  # entries that meet
        given = [torch.where(i % 2 == 0, i, 0 * i) for i in given]
    inputs = [numbers(dtype, *shape), numbers(dtype, *values_shape) + 3, *given]
    kind = IndexPut(axes, accumulate)
    name, other = "index_put.cuda.set", "index_put.cuda.add"
    if accumulate:
        name, other = other, name
    check_cuda_tactic(name, kind, inputs, exact=not (accumulate and dtype.is_floating_point))
    assert_refused(other, kind, inputs, reason="values that")


@pytest.mark.parametrize(("kind", "want"), [
    (Scatter(1), [[2, 1, 1, 1, 1], [1, 1, 5, 1, 1]]),
    (Scatter(1, "sum"), [[3, 1, 1, 1, 1], [1, 1, 6, 1, 1]]),
])
def test_indices_out_of_range_write_nothing(cuda_device, kind, want):
    inputs = [
        torch.ones(2, 5), torch.tensor([[0, 7], [-9, 2]]), torch.tensor([[2.0, 3.0], [4.0, 5.0]])
    ]
    spec = cuda_spec(kind, inputs)
    name = "scatter.cuda.set" if kind.mode == "set" else "scatter.cuda.combine"
    with preparing_for(cuda_device.device):
        prepared = find_tactic(TACTICS, name).prepare(spec, BlobWeights({}))
    (result,) = run_prepared(prepared, spec, inputs)
    assert result.tolist() == want
