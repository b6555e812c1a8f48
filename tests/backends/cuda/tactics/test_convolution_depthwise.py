"""Our depthwise convolutions against the reference, in every size of piece."""

from __future__ import annotations

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic

from torch2rt.backends.cuda.cpp.convolution import depthwise
from torch2rt.layers.convolution import Convolution

pytestmark = pytest.mark.usefixtures("cuda_device")
NAMES = [
    f"convolution.cuda.depthwise_{tile}" for tile in ("1x1", "2x2", "2x4", "4x4", "2x7")
]


@pytest.fixture(autouse=True)
def _tiny_images_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "_FEW_THREADS", 0)


def window(
    channels: int, size: int = 3, stride: int = 1, dilation: int = 1, axes: int = 2,
    before: int | None = None,
) -> Convolution:
    after = (size - 1) * dilation // 2
    return Convolution(
        stride=(stride,) * axes, padding_before=(after if before is None else before,) * axes,
        padding_after=(after,) * axes, dilation=(dilation,) * axes, groups=channels,
    )


def rand(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stride", [1, 2])
def test_pieces(name: str, stride: int) -> None:
    check_cuda_tactic(
        name, window(24, stride=stride),
        [rand(2, 24, 13, 14), rand(24, 1, 3, 3), rand(24, 1, 1, dtype=torch.float32)],
        "clamp(add(i0,i1),0.0,6.0)", constants=[1, 2],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [2, 3, 12, 40])
def test_channels_and_dtypes(dtype: torch.dtype, channels: int) -> None:
    check_cuda_tactic(
        NAMES[1], window(channels),
        [rand(1, channels, 6, 6, dtype=dtype), rand(channels, 1, 3, 3, dtype=dtype)],
        constants=[1],
    )


@pytest.mark.parametrize(("name", "size", "dilation"), [
    *((name, size, dilation) for name in NAMES[:3] for size, dilation in ((5, 1), (3, 2), (2, 1))),
    (NAMES[0], 7, 1), (NAMES[1], 7, 1),
])
def test_windows(name: str, size: int, dilation: int) -> None:
    check_cuda_tactic(
        name, window(8, size, dilation=dilation, before=1),
        [rand(1, 8, 12, 11), rand(8, 1, size, size)], constants=[1],
    )


def test_a_huge_window() -> None:
    check_cuda_tactic(
        NAMES[0], window(4, 21, stride=2), [rand(1, 4, 12, 12), rand(4, 1, 21, 21)], constants=[1]
    )


def test_one_axis() -> None:
    check_cuda_tactic(
        NAMES[1], window(8, 5, axes=1), [rand(2, 8, 30), rand(8, 1, 5)], "silu(i0)", constants=[1]
    )


def test_residual_and_pitched_operands() -> None:
    check_cuda_tactic(
        NAMES[2], window(16), [rand(2, 16, 8, 8), rand(16, 1, 3, 3), rand(2, 16, 8, 8)],
        "hardswish(add(i0,i1))", constants=[1], pitched={"i0": 1, "i2": 1, "o0": 1},
    )


def test_infinity_stays_in_its_windows() -> None:
    x = rand(1, 8, 9, 9)
    x[0, 3, 4, 4] = torch.inf
    x[0, 4, 0, 0] = torch.nan
    check_cuda_tactic(NAMES[2], window(8), [x, rand(8, 1, 3, 3)], "relu(i0)", constants=[1])


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = rand(1, 8, 9, 9), rand(8, 1, 3, 3)
    assert_refused(NAMES[0], window(8), [x, w], reason="not constant")
    assert_refused(
        NAMES[0], window(4), [x, rand(8, 2, 3, 3)], reason="not one filter", constants=[1]
    )
    assert_refused(NAMES[4], window(8, 17), [x, rand(8, 1, 17, 17)], reason="window", constants=[1])
    monkeypatch.setattr(depthwise, "_FEW_THREADS", 96)
    assert_refused(NAMES[1], window(8), [x, w], reason="so little", constants=[1])
