"""Pooling by our kernel against the reference."""

import math

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import check_cuda_tactic
from strided_cases import with_dtypes

from torch2rt.kernels.cuda.operands import Epilogue
from torch2rt.kernels.cuda.pool import PoolProblem, Window, pool_source
from torch2rt.layers.pool import Pool

pytestmark = pytest.mark.usefixtures("cuda_device")
HALVES = [torch.float16, torch.bfloat16]
NAME = "pool.cuda.direct"


def pool(mode, kernel=3, stride=2, before=1, after=None, dilation=1, count=False, rank=2):
    after = before if after is None else after
    return Pool(mode, *((v,) * rank for v in (kernel, stride, before, after, dilation)), count)


@pytest.mark.parametrize(("kind", "shape", "dtype"), with_dtypes([
    (pool("max"), (2, 24, 9, 11)),
    (pool("mean"), (2, 24, 8, 7)),
    (pool("max"), (1, 3, 7, 8)),
    (pool("max", 2, 2, 0), (1, 17, 8, 8)),
    (pool("max", 3, 1, 2, dilation=2), (1, 16, 8, 8)),
    (pool("max", 3, 2, 0, 1), (1, 12, 8, 8)),
    (pool("max", 9, 9, 0), (1, 8, 18, 18)),
    (pool("mean"), (2, 20, 9, 11)),
    (pool("mean", count=True), (2, 20, 9, 11)),
    (pool("mean", 3, 2, 0, 1), (1, 16, 8, 8)),
    (pool("mean", 7, 7, 0), (2, 32, 7, 7)),
    (pool("max", rank=1), (2, 20, 9)),
    (pool("mean", rank=3), (1, 8, 5, 6, 7)),
    (pool("max", rank=3), (2, 4, 5, 3, 4)),
]))
def test_pool(kind, shape, dtype):
    x = torch.randn(shape).to(dtype)
    check_cuda_tactic(NAME, kind, [x], exact=kind.mode == "max")


@pytest.mark.parametrize(("dtype", "kind", "shape"), [
    (torch.int64, pool("max"), (2, 6, 5, 7)),
    (torch.int32, pool("max"), (1, 4, 6, 6)),
    (torch.uint8, pool("max", 2, 2, 0), (1, 32, 4, 6)),
    (torch.float64, pool("max"), (1, 6, 5, 7)),
    (torch.float64, pool("mean"), (1, 6, 5, 7)),
])
def test_other_dtypes(dtype, kind, shape):
    x = (torch.randn(shape) * 50).to(dtype)
    check_cuda_tactic(NAME, kind, [x], exact=kind.mode == "max")


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_nan_and_infinities_of_a_max(dtype):
    x = torch.randn(1, 8, 9, 9).to(dtype)
    x[0, :4, 2, 2] = math.nan
    x[0, 2, 6:, 6:] = -math.inf
    x[0, 5, 0, 0] = math.inf
    check_cuda_tactic(NAME, pool("max"), [x])


@pytest.fixture
def many_tiles(monkeypatch, cuda_device):
    """A device with so few multiprocessors that every output counts as large."""
    monkeypatch.setattr(cuda_device.device, "multiprocessors", 0)


@pytest.mark.usefixtures("many_tiles")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("kind", "shape"), [
    (pool("max"), (2, 16, 9, 11)),
    (pool("max", 3, 1, 1), (2, 16, 5, 6)),
    (pool("mean", 3, 1, 1), (1, 12, 5, 7)),
    (pool("mean", 5, 2, 2), (1, 8, 7, 7)),
    (pool("max", 2, 2, 0), (1, 8, 6, 6)),
])
def test_tiles_of_outputs(kind, shape, dtype):
    check_cuda_tactic(NAME, kind, [torch.randn(shape).to(dtype)], exact=kind.mode == "max")


def test_pitched_operands():
    x = torch.randn(2, 16, 9, 16).half()
    check_cuda_tactic(NAME, pool("max"), [x], pitched={"i0": 1, "o0": 1}, exact=True)
    check_cuda_tactic(NAME, pool("mean"), [x.float()], pitched={"o0": 3})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_epilogue(dtype):
    x, y = torch.randn(2, 16, 9, 9).to(dtype), torch.randn(2, 16, 5, 5).to(dtype)
    bias = torch.randn(16, 1, 1)
    check_cuda_tactic(NAME, pool("mean"), [x], "relu(add(mul(i0,2.0),0.5))")
    check_cuda_tactic(NAME, pool("max"), [x, bias, y], "relu(add(add(i0,i1),i2))", constants=[1])
    check_cuda_tactic(NAME, pool("max"), [x, y], "add(i0,i1)", pitched={"i1": 1, "o0": 1})
    plane = torch.randn(1, 1, 5, 5).to(dtype)
    check_cuda_tactic(NAME, pool("max"), [x, plane], "mul(i0,i1)")


def test_every_architecture_compiles():
    for mode, x_type, vector in (
        ("max", "f16", 8), ("max", "bf16", 8), ("mean", "bf16", 8), ("max", "i64", 1),
        ("mean", "double", 2),
    ):
        accumulator = {"i64": "i64", "double": "double"}.get(x_type, "float")
        window = Window((1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1), False)
        problem = PoolProblem(
            mode, x_type, x_type, accumulator, 64, (1, 28, 28), (1, 14, 14),
            (50176, 1, 0, 1792, 64), (12544, 1, 0, 896, 64), window, True, vector, (1, 2),
            Epilogue(result=accumulator),
        )
        compile_for_all(pool_source(problem), "pool")
