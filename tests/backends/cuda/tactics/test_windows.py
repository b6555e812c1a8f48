"""Pads, rolls, fills, ranges and triangles, against the reference."""

import pytest
import torch
from cuda_testing import check_cuda_tactic

from torch2rt.layers.arange import Arange
from torch2rt.layers.fill import Fill
from torch2rt.layers.pad import Pad
from torch2rt.layers.roll import Roll
from torch2rt.layers.triangle import Triangle
from torch2rt.network.dtype import DType

pytestmark = pytest.mark.usefixtures("cuda_device")
DTYPES = [torch.uint8, torch.float16, torch.float32, torch.int64]


def numbers(dtype, *shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(120).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["constant", "replicate", "reflect", "circular"])
@pytest.mark.parametrize(("shape", "before", "after"), [
    ((2, 16, 5, 4), (0, 0, 2, 1), (0, 0, 1, 3)),
    ((2, 3, 5, 4), (0, 1, 0, 2), (0, 2, 3, 0)),
    ((6, 8), (3, 0), (0, 0)),
    ((5,), (4,), (2,)),
])
def test_pad(shape, before, after, mode, dtype):
    kind = Pad(before, after, mode, 3)
    check_cuda_tactic("pad.cuda.window", kind, [numbers(dtype, *shape)], exact=True)


@pytest.mark.parametrize(("dtype", "value"), [
    (torch.bfloat16, 1.00390625 + 1e-4), (torch.bfloat16, float("-inf")), (torch.float16, 1e9),
    (torch.float32, float("nan")), (torch.float64, -1.5), (torch.bool, True), (torch.int32, -7),
])
def test_constants_are_rounded_as_torch_rounds(dtype, value):
    x = torch.ones(2, 8, 3, 3).to(dtype)
    check_cuda_tactic("pad.cuda.window", Pad((0, 0, 1, 0), (0, 0, 0, 1), value=value), [x])


def test_pad_of_pitched_operands():
    x = numbers(torch.float16, 2, 8, 5, 8)
    check_cuda_tactic(
        "pad.cuda.window", Pad((0, 0, 2, 0), (0, 0, 1, 0)), [x], exact=True,
        pitched={"i0": 1, "o0": 1},
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "shifts", "axes"), [
    ((2, 8, 7, 5), (3, -2), (2, 3)),
    ((2, 7, 5, 8), (3, -9), (1, 2)),
    ((9,), (20,), (0,)),
    ((4, 6), (1, 1), (1, 1)),
])
def test_roll(shape, shifts, axes, dtype):
    check_cuda_tactic("roll.cuda.window", Roll(shifts, axes), [numbers(dtype, *shape)], exact=True)


@pytest.mark.parametrize(("dtype", "value"), [
    (DType.FLOAT16, 0.1), (DType.BFLOAT16, 0.1), (DType.FLOAT32, float("-inf")),
    (DType.FLOAT64, 0.1), (DType.INT64, -5), (DType.INT32, 7), (DType.UINT8, 200),
    (DType.BOOL, True),
])
@pytest.mark.parametrize("shape", [(), (3,), (2, 8, 3, 5), (64, 65)])
def test_fill(shape, dtype, value):
    check_cuda_tactic("fill.cuda.pattern", Fill(shape, value, dtype), [], exact=True)


@pytest.mark.parametrize("kind", [
    Arange(3, -2, 11, DType.INT64), Arange(0, 1, 8, DType.INT32),
    Arange(0.5, 0.1, 9, DType.FLOAT16),
    Arange(-1.0, 0.25, 1, DType.FLOAT64),
    Arange(0, 0.1, 40, DType.BFLOAT16), Arange(1, 1, 300, DType.BFLOAT16),
])
def test_arange(kind):
    check_cuda_tactic("arange.cuda.copy", kind, [], exact=True)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool])
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize(("shape", "diagonal"), [
    ((5, 8), 0), ((2, 3, 7, 5), 1), ((16, 16), -3), ((3, 4), 9), ((3, 4), -9), ((1, 1), 0),
])
def test_triangle(shape, diagonal, upper, dtype):
    x = (numbers(torch.int64, *shape) + 1).to(dtype)
    check_cuda_tactic("triangle.cuda.mask", Triangle(upper, diagonal), [x], exact=True)
