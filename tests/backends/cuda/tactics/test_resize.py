"""Resizes of every mode, against the reference."""

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic

from torch2rt.layers.resize import Resize

pytestmark = pytest.mark.usefixtures("cuda_device")
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
MODES = ["nearest", "nearest_exact", "linear", "cubic", "linear_antialias", "cubic_antialias"]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_images(mode, align_corners, dtype):
    torch.manual_seed(0)
    kind = Resize(mode, (10, 3), (None, None), align_corners and not mode.startswith("nearest"))
    for channels in (16, 3):
        x = torch.randn(2, channels, 5, 7).to(dtype)
        is_exact = mode.startswith("nearest")
        check_cuda_tactic("resize.cuda.taps", kind, [x], exact=is_exact, layouts=2)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_scales(mode):
    x = torch.randn(1, 8, 6, 5)
    check_cuda_tactic("resize.cuda.taps", Resize(mode, (11, 7), (1.9, 1.5)), [x])


@pytest.mark.parametrize("mode", ["nearest", "nearest_exact", "linear"])
@pytest.mark.parametrize(("shape", "sizes"), [((2, 3, 7), (12,)), ((1, 8, 3, 4, 5), (6, 3, 9))])
def test_other_ranks(shape, sizes, mode):
    x = torch.randn(*shape).half()
    check_cuda_tactic("resize.cuda.taps", Resize(mode, sizes, (None,) * len(sizes)), [x])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_nearest_moves_bits(dtype):
    x = torch.arange(2 * 16 * 3 * 3).reshape(2, 16, 3, 3).to(dtype)
    if dtype.is_floating_point:
        x[0, 0, 0, 0] = float("nan")
    check_cuda_tactic("resize.cuda.taps", Resize("nearest", (7, 5), (None, None)), [x], exact=False)


def test_pitched_operands():
    x = torch.randn(2, 8, 4, 8).half()
    kind = Resize("linear", (8, 16), (None, None))
    check_cuda_tactic("resize.cuda.taps", kind, [x], pitched={"i0": 1, "o0": 1})


def test_sums_of_integers_are_refused():
    x = torch.ones(1, 4, 3, 3, dtype=torch.uint8)
    assert_refused("resize.cuda.taps", Resize("linear", (6, 6), (2.0, 2.0)), [x], reason="uint8")
