"""Layers that numpy moves or computes, against the reference."""

import math

import pytest
import torch
from tactic_testing import (
    BACKEND,
    DictWeights,
    check_tactic,
    make_spec,
    run_prepared,
    tactic_named,
)

from torch2rt.layers.adaptive_pool import AdaptivePool
from torch2rt.layers.arange import Arange
from torch2rt.layers.argreduce import ArgReduce
from torch2rt.layers.cumulative import Cumulative
from torch2rt.layers.expand import Expand
from torch2rt.layers.fill import Fill
from torch2rt.layers.gather import Gather
from torch2rt.layers.index import Index
from torch2rt.layers.index_put import IndexPut
from torch2rt.layers.pad import Pad
from torch2rt.layers.resize import Resize
from torch2rt.layers.roll import Roll
from torch2rt.layers.scatter import Scatter
from torch2rt.layers.slice_scatter import SliceScatter
from torch2rt.layers.sort import Sort
from torch2rt.layers.take import Take
from torch2rt.layers.triangle import Triangle
from torch2rt.network.dtype import DType

DTYPES = [torch.float32, torch.bfloat16, torch.int64]
FLOATS = [torch.float32, torch.bfloat16]


def numbers(dtype, *shape):
    return (torch.randn(shape) * 20).round().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moves(dtype):
    x = numbers(dtype, 4, 5, 6)
    index = torch.tensor([[1, 3], [0, -1]])
    check_tactic("take.numpy.direct", Take(0), [x, index], exact=True)
    check_tactic("take.numpy.direct", Take(1), [x, index], constants=[0], exact=True)
    positions = torch.randint(0, 5, (3, 2, 6))
    check_tactic("gather.numpy.direct", Gather(1), [x, positions], exact=True)
    check_tactic("index.numpy.direct", Index((0, 2)), [x, index, index], exact=True)
    check_tactic("index.numpy.direct", Index((1,)), [x, index], exact=True)
    check_tactic("expand.numpy.copy", Expand((3, 4, 5, 6)), [x[:, :1]], exact=True)
    check_tactic("roll.numpy.direct", Roll((2, -1), (0, 2)), [x], exact=True)
    check_tactic("triangle.numpy.direct", Triangle(True, 1), [x], exact=True)
    check_tactic("triangle.numpy.direct", Triangle(False, -1), [x], exact=True)
    source = numbers(dtype, 2, 2, 3)
    check_tactic("slice_scatter.numpy.direct", SliceScatter((1, 0, 0), (2, 3, 1)),
                 [x, source], exact=True)
    unique = torch.tensor([[[0], [3]], [[1], [2]]])
    check_tactic("scatter.numpy.direct", Scatter(1), [x, unique, source], exact=True)
    check_tactic("index_put.numpy.direct", IndexPut((0, 1)),
                 [x, source[0, 0, 0].reshape(1), torch.tensor([1, 2]), torch.tensor([0, 4])],
                 exact=True)


def test_index_put_adds_up():
    kind = IndexPut((0,), accumulate=True)
    inputs = [torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 1, 3, 0])]
    check_tactic("index_put.numpy.direct", kind, inputs)


def test_an_index_out_of_range_is_an_error():
    inputs = [torch.randn(4, 3), torch.tensor([1, 4])]
    spec = make_spec(Take(0), inputs)
    prepared = BACKEND.tactics["take.numpy.direct"].prepare(spec, DictWeights({}))
    with pytest.raises(IndexError, match="out of bounds"):
        run_prepared(prepared, spec, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pads(dtype):
    x = numbers(dtype, 2, 20, 5, 6)
    kind = Pad((0, 0, 1, 2), (0, 0, 3, 0))
    if dtype is not torch.int64:
        check_tactic("pad.onednn.reorder", kind, [x], exact=True, layouts=3)
    check_tactic("pad.numpy.direct", kind, [x], exact=True)
    check_tactic("pad.numpy.direct", Pad((1, 0, 0, 0), (0, 2, 0, 0), value=3), [x], exact=True)
    for mode in ("replicate", "reflect", "circular"):
        kind = Pad((0, 0, 1, 2), (0, 0, 3, 0), mode)
        check_tactic("pad.numpy.direct", kind, [x], exact=True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("mode", "sizes", "scales", "corners"), [
    ("nearest", (8, 12), (None, None), False),
    ("nearest", (8, 12), (2.0, 2.0), False),
    ("nearest", (7, 3), (None, None), False),
    ("nearest_exact", (8, 12), (None, None), False),
    ("nearest_exact", (7, 9), (None, None), False),
    ("linear", (9, 5), (None, None), False),
    ("linear", (8, 12), (2.0, 2.0), False),
    ("linear", (9, 5), (None, None), True),
    ("linear", (9, 13), (2.3, 2.2), False),
    ("cubic", (9, 5), (None, None), False),
    ("cubic", (9, 5), (None, None), True),
])
def test_resize(mode, sizes, scales, corners, dtype):
    x = torch.randn(2, 20, 4, 6).to(dtype)
    kind = Resize(mode, sizes, scales, corners)
    check_tactic("resize.numpy.axes", kind, [x])
    tactic = tactic_named("resize.onednn.direct")
    if tactic.supports(make_spec(kind, [x])) is None:
        check_tactic("resize.onednn.direct", kind, [x], layouts=3)
        check_tactic("resize.onednn.direct", kind, [x], "relu(mul(i0,0.5))")


@pytest.mark.parametrize("mode", ["linear_antialias", "cubic_antialias"])
def test_antialiased_resize(mode):
    kind = Resize(mode, (3, 9), (None, None))
    check_tactic("resize.numpy.axes", kind, [torch.randn(1, 2, 8, 5)])


def test_onednn_resizes_the_common_cases():
    tactic = tactic_named("resize.onednn.direct")
    x = torch.randn(1, 16, 4, 6)
    for kind in (Resize("nearest", (8, 12), (None, None)), Resize("linear", (9, 7), (None, None))):
        assert tactic.supports(make_spec(kind, [x])) is None
    assert tactic.supports(make_spec(Resize("nearest", (7, 9), (None, None)), [x])) is not None


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mode", ["mean", "max"])
def test_adaptive_pool(mode, dtype):
    x = torch.randn(2, 5, 7, 10).to(dtype)
    check_tactic("adaptive_pool.numpy.axes", AdaptivePool(mode, (3, 4)), [x])


def test_values_of_nothing():
    check_tactic("fill.numpy.direct", Fill((2, 3), 1.5, DType.BFLOAT16), [], exact=True)
    check_tactic("fill.numpy.direct", Fill((2,), 7, DType.INT64), [], exact=True)
    check_tactic("fill.numpy.direct", Fill((), True, DType.BOOL), [], exact=True)
    check_tactic("arange.numpy.direct", Arange(3, 2, 5, DType.INT64), [], exact=True)
    check_tactic("arange.numpy.direct", Arange(0.5, 0.25, 5, DType.FLOAT32), [], exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_argreduce(mode, dtype):
    x = numbers(dtype, 4, 9, 3)
    check_tactic("argreduce.numpy.direct", ArgReduce(mode, 1), [x])
    check_tactic("argreduce.numpy.direct", ArgReduce(mode, 0, keepdim=True), [x])


@pytest.mark.parametrize("mode", ["sum", "prod", "logsumexp"])
def test_cumulative(mode):
    check_tactic("cumulative.numpy.direct", Cumulative(mode, 1), [torch.randn(3, 7)])
    if mode != "logsumexp":
        x = torch.randint(-3, 4, (3, 7))
        check_tactic("cumulative.numpy.direct", Cumulative(mode, 0), [x])


@pytest.mark.parametrize("is_descending", [False, True])
def test_sort(is_descending):
    for x in (torch.randn(4, 9), torch.randint(0, 3, (4, 9)), torch.randn(4, 9).bfloat16()):
        check_tactic("sort.numpy.stable", Sort(1, is_descending), [x], exact=True)
    x = torch.randperm(36).reshape(4, 9).float()
    check_tactic("sort.numpy.stable", Sort(0, is_descending, 2), [x], exact=True)
    x[2, 3] = math.nan
    check_tactic("sort.numpy.stable", Sort(1, is_descending), [x])
