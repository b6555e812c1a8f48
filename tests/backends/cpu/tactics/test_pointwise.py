"""Pointwise tactics against the reference."""

import pytest
import torch
from tactic_testing import check_tactic

from torch2rt.expression import parse_expression
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType
from torch2rt.torch_values import dtype_from_torch

FLOATS = [torch.float32, torch.bfloat16]


def pointwise(text, dtype=DType.FLOAT32):
    return Pointwise(parse_expression(text), dtype)


UNARY = [
    "relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "mish", "softplus", "hardswish",
    "hardsigmoid", "abs", "square", "exp", "exp2", "round", "neg", "to_float32",
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", UNARY)
def test_unary_by_onednn(op, dtype):
    x = torch.randn(2, 20, 5, 7).to(dtype)
    check_tactic("pointwise.onednn.chains", pointwise(f"{op}(i0)", dtype_from_torch(dtype)), [x])


@pytest.mark.parametrize("op", ["sqrt", "log", "rsqrt", "reciprocal"])
def test_unary_of_positive_numbers(op):
    x = torch.rand(2, 20, 5, 7) + 0.1
    check_tactic("pointwise.onednn.chains", pointwise(f"{op}(i0)"), [x])


TREES = [
    "add(i0,i1)",
    "relu(add(mul(i0,i2),i3))",
    "mul(i0,sigmoid(i1))",
    "mul(add(i0,1.0),add(i1,2.0))",
    "div(sub(2.0,i0),add(exp(i1),1.0))",
    "add(i0,relu(mul(i1,i2)))",
    "mul(mul(tanh(add(i0,i1)),tanh(add(i0,i1))),i0)",
    "pow(abs(i0),1.5)",
    "pow(i0,2)",
    "max(min(i0,i1),-0.5)",
    "clamp(i0,-0.3,0.4)",
    "leaky_relu(i0,0.1)",
    "elu(i0,1.5)",
    "sub(i2,i0)",
    "mul(i0,i3)",
    "mul(i0,gt(i1,0.0))",
    "i1",
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tactic", ["pointwise.onednn.chains", "pointwise.numpy.ops"])
@pytest.mark.parametrize("text", TREES)
def test_trees(tactic, text, dtype):
    shapes = [(2, 20, 5, 7), (2, 20, 5, 7), (20, 1, 1), (2, 20, 1, 1)]
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    kind = pointwise(text, dtype_from_torch(dtype))
    check_tactic(tactic, kind, inputs, constants=[2])


def test_epilogue_and_cast_of_the_result():
    inputs = [torch.randn(3, 8), torch.randn(3, 8), torch.randn(8)]
    for tactic in ("pointwise.onednn.chains", "pointwise.numpy.ops"):
        kind = pointwise("to_bfloat16(mul(i0,i1))", DType.BFLOAT16)
        check_tactic(tactic, kind, inputs[:2])
        check_tactic(tactic, pointwise("mul(i0,i1)"), inputs, "relu(add(i0,i1))")


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 1), (2, 3, 4, 5, 6)])
def test_ranks(shape):
    for tactic in ("pointwise.onednn.chains", "pointwise.numpy.ops"):
        check_tactic(tactic, pointwise("add(mul(i0,i1),2.0)"), [torch.randn(shape)] * 2)


NUMPY = [
    ("add(i0,i1)", torch.int64, DType.INT64),
    ("floordiv(i0,i1)", torch.int64, DType.INT64),
    ("lt(i0,i1)", torch.float32, DType.BOOL),
    ("logical_not(gt(i0,0))", torch.int32, DType.BOOL),
    ("where(gt(i0,0.0),i0,i1)", torch.float32, DType.FLOAT32),
    ("to_int64(i0)", torch.float32, DType.INT64),
    ("sin(mul(i0,i1))", torch.float64, DType.FLOAT64),
    ("to_float32(i0)", torch.int64, DType.FLOAT32),
    ("erf(i0)", torch.float32, DType.FLOAT32),
    ("to_float32(to_bfloat16(i0))", torch.float32, DType.FLOAT32),
    ("sqrt(i0)", torch.float32, DType.FLOAT32),
]


@pytest.mark.parametrize(("text", "dtype", "out"), NUMPY)
def test_numpy_takes_any_dtype(text, dtype, out):
    left, right = torch.randn(6, 7) * 4, torch.randn(7) * 4
    right[right.abs() < 1] = 2
    inputs = [left.to(dtype), right.to(dtype)]
    check_tactic("pointwise.numpy.ops", pointwise(text, out), inputs)


def test_result_may_take_over_an_operand():
    inputs = [torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4), torch.randn(16, 1, 1)]
    kind = pointwise("relu(add(mul(i0,i2),i1))")
    for made in check_tactic("pointwise.onednn.chains", kind, inputs):
        assert set(made.may_overwrite) == {0, 1}
