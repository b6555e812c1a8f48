"""Reductions by our kernels against the reference."""

import math

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import check_cuda_tactic, make_spec
from strided_cases import with_dtypes

from torch2rt.backends.cuda.cpp.reductions import reduce_problem
from torch2rt.kernels.cuda.reduce import finish_source, reduce_source
from torch2rt.layers.reduce import Reduce
from torch2rt.network.dtype import DType

pytestmark = pytest.mark.usefixtures("cuda_device")
NAME = "reduce.cuda.walk"
SHAPES = [
    ((2, 24, 7, 7), (2, 3), True),
    ((2, 20, 5, 7), (2, 3), False),
    ((2, 5, 48), (2,), True),
    ((3, 5, 7), (1,), False),
    ((4, 6), (0,), False),
    ((40, 70), (0, 1), False),
    ((2, 20, 5, 8), (1,), True),
    ((2, 6, 4, 3, 5), (1, 3), False),
    ((5, 1, 3), (1,), True),
    ((2, 3, 2100), (2,), False),
]


@pytest.mark.parametrize(("shape", "axes", "keepdim", "dtype"), with_dtypes(SHAPES))
def test_floats(shape, axes, keepdim, dtype):
    x = torch.randn(shape).to(dtype)
    for mode in ("mean", "max"):
        check_cuda_tactic(NAME, Reduce(mode, axes, keepdim), [x], exact=mode == "max")


@pytest.mark.parametrize(("mode", "dtype"), [
    ("sum", torch.float32), ("min", torch.float16), ("prod", torch.float32),
    ("sum", torch.int64), ("prod", torch.int64), ("max", torch.int32), ("min", torch.int64),
    ("sum", torch.int32), ("any", torch.bool), ("all", torch.bool), ("all", torch.float32),
    ("any", torch.int64), ("sum", torch.float64), ("mean", torch.float64), ("max", torch.float64),
    ("max", torch.uint8), ("sum", torch.bool), ("any", torch.uint8),
])
@pytest.mark.parametrize("axes", [(1,), (2,)])
def test_modes_and_dtypes(mode, dtype, axes):
    x = (torch.randn(3, 4, 16) * 2).to(dtype)
    exact = dtype in (torch.int64, torch.bool) or mode in ("max", "min")
    check_cuda_tactic(NAME, Reduce(mode, axes), [x], exact=exact)


@pytest.mark.parametrize("mode", ["max", "min", "sum", "any"])
def test_nan_and_infinities(mode):
    x = torch.randn(4, 40)
    x[0, 3], x[1, 39], x[2, 0] = math.nan, math.inf, -math.inf
    for axis in (0, 1):
        check_cuda_tactic(NAME, Reduce(mode, (axis,)), [x])


def test_sum_beyond_32_bits():
    x = torch.full((3, 50), 2**40)
    check_cuda_tactic(NAME, Reduce("sum", (1,)), [x], exact=True)
    check_cuda_tactic(NAME, Reduce("sum", (1,)), [torch.full((2, 9), 2**30).int()], exact=True)


@pytest.mark.parametrize(("shape", "axes", "mode"), [
    ((30000,), (0,), "sum"), ((3, 20000), (1,), "max"), ((4000, 8), (0,), "mean"),
    ((1500, 20), (0,), "max"), ((1, 8, 40, 40), (0, 2, 3), "mean"), ((3, 700, 5), (1,), "sum"),
])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_split_reductions(shape, axes, mode, dtype):
    x = torch.randn(shape).to(dtype)
    kind = Reduce(mode, axes)
    check_cuda_tactic(NAME, kind, [x], exact=mode == "max")
    shape = [n for i, n in enumerate(shape) if i not in axes]
    bias = torch.randn(shape).to(dtype)
    check_cuda_tactic(NAME, kind, [x, bias], "relu(add(i0,i1))")


def test_long_reductions_are_split():
    for shape, axes in (((100000,), (0,)), ((100000, 8), (0,))):
        spec = make_spec(Reduce("sum", axes), [torch.zeros(shape)])
        problem = reduce_problem(spec, "sum", axes, False, 132)
        assert problem.splits > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("shape", "axes", "keepdim"), SHAPES[:5])
def test_epilogue(shape, axes, keepdim, dtype):
    x = torch.randn(shape).to(dtype)
    sizes = [1 if keepdim else n for i, n in enumerate(shape) if keepdim or i not in axes]
    bias = torch.randn(sizes).to(dtype)
    check_cuda_tactic(NAME, Reduce("mean", axes, keepdim), [x, bias], "relu(add(i0,i1))")
    check_cuda_tactic(NAME, Reduce("mean", axes, keepdim), [x, bias], "mul(i0,i1)", constants=[1])


def test_pitched_operands():
    x = torch.randn(2, 16, 5, 8).half()
    check_cuda_tactic(NAME, Reduce("mean", (2, 3), True), [x], pitched={"i0": 1, "o0": 4})
    check_cuda_tactic(NAME, Reduce("max", (3,)), [torch.randn(4, 3, 8, 16)], pitched={"i0": 2})


def test_epilogue_to_other_dtypes():
    x, scale = torch.randn(3, 40).half(), torch.randint(1, 5, (3,))
    kind = Reduce("mean", (1,))
    check_cuda_tactic(NAME, kind, [x], "clamp(round(mul(i0,50.0)),-128.0,127.0)",
                      out_dtype=DType.INT8)
    check_cuda_tactic(NAME, kind, [x, scale], "mul(i0,i1)", out_dtype=DType.FLOAT32)
    check_cuda_tactic(NAME, kind, [x.double()], "exp(i0)")


def test_every_architecture_compiles():
    for dtype in (torch.bfloat16, torch.float64, torch.int64):
        for mode, axes in (("max", (0,)), ("prod", (1,))):
            kind = Reduce(mode, axes)
            problem = reduce_problem(
                make_spec(kind, [torch.zeros(100000, 16, dtype=dtype)]), mode, axes, False, 132
            )
            compile_for_all(reduce_source(problem), "reduce")
            if problem.splits > 1:
                compile_for_all(finish_source(problem), "reduce_finish")
