"""pointwise.cuda.vector against the reference."""

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import check_cuda_tactic, cuda_spec

from torch2rt.backends.cuda.cpp.elementwise import merge_axes
from torch2rt.backends.cuda.tactics.pointwise_cuda_vector import pointwise_kernel
from torch2rt.backends.spec import Layout, LayoutChoice
from torch2rt.expression import parse_expression
from torch2rt.kernels.cuda.pointwise import NAME
from torch2rt.layers.pointwise import Pointwise
from torch2rt.network.dtype import DType
from torch2rt.torch_values import dtype_from_torch

TACTIC = "pointwise.cuda.vector"
FLOATS = [torch.float32, torch.float16, torch.bfloat16]

pytestmark = pytest.mark.usefixtures("cuda_device")


def pointwise(text, dtype=DType.FLOAT32):
    return Pointwise(parse_expression(text), dtype)


TREES = [
    "add(i0,i1)",
    "relu(add(mul(i0,i2),i3))",
    "mul(i0,sigmoid(i1))",
    "div(sub(2.0,i0),add(exp(i1),1.0))",
    "mul(mul(tanh(add(i0,i1)),tanh(add(i0,i1))),i0)",
    "sub(i2,i0)",
    "i1",
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("text", TREES)
def test_trees(text, dtype):
    shapes = [(2, 24, 5, 7), (2, 24, 5, 7), (24, 1, 1), (2, 24, 1, 1)]
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    kind = pointwise(text, dtype_from_torch(dtype))
    check_cuda_tactic(TACTIC, kind, inputs, constants=[2], layouts=2)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1003,), (3, 1), (2, 3, 4, 5, 6), (4099, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shapes(shape, dtype):
    inputs = [torch.randn(shape).to(dtype) for _ in range(2)]
    kind = pointwise("add(mul(i0,i1),2.0)", dtype_from_torch(dtype))
    for made in check_cuda_tactic(TACTIC, kind, inputs):
        assert made.may_overwrite == (0, 1)


BROADCASTS = [
    [(2, 3, 8), (8,)], [(2, 3, 8), (3, 1)], [(2, 3, 8), (2, 1, 1)], [(2, 3, 8), ()],
    [(2, 1, 8), (1, 3, 1)], [(4, 1), (1, 6)], [(2, 3, 5), (5,)], [(2, 16, 3, 3), (1, 16, 1, 3)],
    [(2, 3, 4, 4), (3, 1, 1)], [(1, 8, 4, 4), (8, 4, 4)], [(2, 12, 2, 2), (12, 2, 2)],
]


@pytest.mark.parametrize("shapes", BROADCASTS)
def test_broadcasts(shapes):
    for dtype in (torch.float32, torch.float16):
        inputs = [torch.randn(shape).to(dtype) for shape in shapes]
        check_cuda_tactic(TACTIC, pointwise("sub(i0,i1)", dtype_from_torch(dtype)), inputs)
        kind = pointwise("sub(i1,i0)", dtype_from_torch(dtype))
        check_cuda_tactic(TACTIC, kind, inputs, constants=[1])


DTYPES = [
    ("add(i0,i1)", torch.int64, DType.INT64),
    ("mul(i0,i1)", torch.int8, DType.INT8),
    ("lt(i0,i1)", torch.float32, DType.BOOL),
    ("logical_not(gt(i0,0))", torch.int32, DType.BOOL),
    ("logical_and(i0,i1)", torch.bool, DType.BOOL),
    ("where(gt(i0,0.0),i0,i1)", torch.float16, DType.FLOAT16),
    ("to_int64(i0)", torch.float32, DType.INT64),
    ("to_float16(i0)", torch.float32, DType.FLOAT16),
    ("to_float16(i0)", torch.int64, DType.FLOAT16),
    ("to_float32(i0)", torch.bfloat16, DType.FLOAT32),
    ("to_float32(i0)", torch.bool, DType.FLOAT32),
    ("sin(mul(i0,i1))", torch.float64, DType.FLOAT64),
    ("to_float32(to_bfloat16(i0))", torch.float32, DType.FLOAT32),
]


@pytest.mark.parametrize(("text", "dtype", "out"), DTYPES)
@pytest.mark.parametrize("shape", [(6, 7), (2, 16, 3, 3)])
def test_dtypes(text, dtype, out, shape):
    inputs = [(torch.randn(size) * 4).to(dtype) for size in (shape, shape[-1:])]
    check_cuda_tactic(TACTIC, pointwise(text, out), inputs)


def test_nan_and_infinity_go_through():
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0, -1.0]).half()
    for text in ("relu(i0)", "clamp(i0,-0.5,0.5)", "max(i0,0.0)", "min(0.0,i0)"):
        check_cuda_tactic(TACTIC, pointwise(text, DType.FLOAT16), [x], exact=False)


def test_epilogue():
    inputs = [torch.randn(3, 8), torch.randn(3, 8), torch.randn(8)]
    check_cuda_tactic(TACTIC, pointwise("mul(i0,i1)"), inputs, "relu(add(i0,i1))")


@pytest.mark.parametrize("pitched", [{"i0": 1}, {"o0": 1}, {"i0": 1, "i1": 1, "o0": 1}])
def test_inside_wider_tensors(pitched):
    inputs = [torch.randn(2, 16, 3, 4).half() for _ in range(2)]
    kind = pointwise("relu(add(i0,i1))", DType.FLOAT16)
    for made in check_cuda_tactic(
        TACTIC, kind, [x[:, :, :, :].repeat(1, 1, 1, 2) for x in inputs], pitched=pitched,
    ):
        assert made.may_overwrite == tuple(
            index for index in (0, 1) if (f"i{index}" in pitched) == ("o0" in pitched)
        )
    rows = [torch.randn(3, 5, 24) for _ in range(2)]
    check_cuda_tactic(TACTIC, pointwise("sub(i0,i1)"), rows, pitched=pitched)


def test_many_blocks_and_several_vectors_per_thread():
    x = torch.randn(3_000_011).half()
    check_cuda_tactic(TACTIC, pointwise("mul(i0,2.0)", DType.FLOAT16), [x])
    kind = pointwise("add(i0,i1)", DType.FLOAT16)
    check_cuda_tactic(TACTIC, kind, [torch.randn(70001, 40).half(), torch.randn(40).half()])



def test_axes_are_merged():
    assert merge_axes((2, 3, 4), [(12, 4, 1), (12, 4, 1)]) == ((24,), [(1,), (1,)])
    assert merge_axes((2, 3, 4), [(12, 4, 1), (0, 0, 1)]) == ((6, 4), [(4, 1), (0, 1)])
    assert merge_axes((2, 3, 4), [(12, 4, 1), (1, 0, 0)]) == ((2, 12), [(12, 1), (1, 0)])
    assert merge_axes((2, 1, 4), [(8, 5, 1), (8, 9, 1)]) == ((2, 4), [(8, 1), (8, 1)])
    assert merge_axes((1, 1), [(1, 1)]) == ((1,), [(1,)])


SPECS = [
    ("to_float16(i0)", DType.FLOAT16, [torch.empty(2, 3, 8, 8)], Layout.PLAIN),
    ("relu(add(i0,i1))", DType.FLOAT16, [torch.empty(2, 16, 8, 8).half()] * 2, Layout.PLAIN),
    ("add(i0,i1)", DType.BFLOAT16,
     [torch.empty(2, 24, 4, 4).bfloat16(), torch.empty(24, 1, 1).bfloat16()],
     Layout.CHANNELS_LAST),
    ("gt(i0,i1)", DType.BOOL, [torch.empty(5, 8).long(), torch.empty(5, 1).long()], Layout.PLAIN),
]


@pytest.mark.parametrize(("text", "dtype", "inputs", "layout"), SPECS)
def test_nvrtc_takes_it(text, dtype, inputs, layout):
    spec = cuda_spec(pointwise(text, dtype), inputs)
    layouts = tuple(layout if x.dim() == 4 else Layout.PLAIN for x in inputs)
    kernel = pointwise_kernel(spec.with_layouts(LayoutChoice(layouts, (layout,))), 1)
    compile_for_all(kernel.source, NAME)
