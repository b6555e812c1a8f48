"""Pooling and reductions against the reference."""


import pytest
import torch
from tactic_testing import check_tactic, make_spec, tactic_named

from torch2rt.backends.tactic import Refusal
from torch2rt.layers.pool import Pool
from torch2rt.layers.reduce import Reduce

FLOATS = [torch.float32, torch.bfloat16]


def pool(mode, kernel=3, stride=2, before=1, after=None, dilation=1, count=False, rank=2):
    after = before if after is None else after
    return Pool(mode, *((v,) * rank for v in (kernel, stride, before, after, dilation)), count)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "shape"), [
    (pool("max"), (2, 20, 9, 11)),
    (pool("max", 2, 2, 0), (1, 16, 8, 8)),
    (pool("max", 3, 1, 2, dilation=2), (1, 16, 8, 8)),
    (pool("max", 3, 2, 0, 1), (1, 16, 8, 8)),
    (pool("mean"), (2, 20, 9, 11)),
    (pool("mean", count=True), (2, 20, 9, 11)),
    (pool("mean", 3, 2, 0, 1), (1, 16, 8, 8)),
    (pool("max", rank=1), (2, 20, 9)),
    (pool("mean", rank=3), (1, 8, 5, 6, 7)),
])
def test_pool(kind, shape, dtype):
    x = torch.randn(shape).to(dtype)
    count = 1 if len(shape) == 3 else 3
    check_tactic("pool.onednn.direct", kind, [x], layouts=count)
    check_tactic("pool.onednn.direct", kind, [x], "relu(add(mul(i0,2.0),0.5))")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["reduce.onednn.direct", "reduce.numpy.direct"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize(("shape", "axes", "keepdim"), [
    ((2, 20, 5, 7), (2, 3), True),
    ((2, 32, 5, 7), (2, 3), False),
    ((2, 20, 5, 7), (2, 3), False),
    ((2, 5, 48), (2,), True),
    ((2, 5, 48), (1,), False),
    ((4, 6), (0,), False),
    ((4, 6), (0, 1), False),
    ((2, 20, 5, 7), (1,), True),
])
def test_reduce(name, mode, shape, axes, keepdim, dtype):
    x = torch.randn(shape).to(dtype)
    check_tactic(name, Reduce(mode, axes, keepdim), [x])
    sizes = [1 if keepdim else n for i, n in enumerate(shape) if keepdim or i not in axes]
    bias = torch.randn(sizes)
    check_tactic(name, Reduce(mode, axes, keepdim), [x, bias.to(dtype)], "relu(add(i0,i1))")


@pytest.mark.parametrize(("mode", "dtype"), [
    ("sum", torch.int64), ("prod", torch.int64), ("max", torch.int32), ("any", torch.bool),
    ("all", torch.float32), ("mean", torch.float64), ("prod", torch.float32),
])
def test_numpy_reduces_any_dtype(mode, dtype):
    x = (torch.randn(3, 4, 5) * 2).to(dtype)
    check_tactic("reduce.numpy.direct", Reduce(mode, (0, 2)), [x])


def test_empty_is_refused():
    spec = make_spec(Reduce("sum", (0,)), [torch.zeros(0, 3)])
    for name in ("reduce.onednn.direct", "reduce.numpy.direct"):
        assert isinstance(tactic_named(name).supports(spec), Refusal)
