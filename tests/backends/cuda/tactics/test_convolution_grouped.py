"""Our convolutions in groups of few channels against the reference."""

from __future__ import annotations

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic

from torch2rt.kernels.cuda import grouped_convolution
from torch2rt.layers.convolution import Convolution

pytestmark = pytest.mark.usefixtures("cuda_device")
NAME = "convolution.cuda.grouped"


def window(groups: int, size: int = 3, stride: int = 1, axes: int = 2) -> Convolution:
    return Convolution(
        stride=(stride,) * axes, padding_before=(size // 2,) * axes,
        padding_after=(0,) * axes, dilation=(1,) * axes, groups=groups,
    )


def rand(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("enough", [1, 256])
@pytest.mark.parametrize(("channels", "filters", "groups"), [
    (16, 16, 4), (16, 16, 8), (8, 16, 8), (12, 24, 12), (6, 4, 2), (15, 30, 3), (32, 64, 2),
    (9, 3, 3), (24, 48, 2),
])
def test_groups(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, enough: int, channels: int, filters: int,
    groups: int,
) -> None:
    monkeypatch.setattr(grouped_convolution, "_THREADS_PER_MULTIPROCESSOR", enough - 1)
    check_cuda_tactic(
        NAME, window(groups, stride=2 if groups == 8 else 1), [
            rand(2, channels, 5, 9, dtype=dtype),
            rand(filters, channels // groups, 3, 3, dtype=dtype),
            rand(filters, 1, 1, dtype=torch.float32),
        ], "relu(add(i0,i1))", constants=[1, 2],
    )


def test_one_axis() -> None:
    check_cuda_tactic(NAME, window(4, 5, axes=1), [rand(2, 8, 30), rand(8, 2, 5)], constants=[1])


def test_residual_and_pitched_operands() -> None:
    check_cuda_tactic(
        NAME, window(4), [rand(2, 16, 9, 8), rand(32, 4, 3, 3), rand(2, 32, 8, 7)],
        "add(i0,i1)", constants=[1], pitched={"i0": 1, "i2": 1, "o0": 1},
    )


def test_groups_do_not_mix() -> None:
    x = rand(1, 16, 6, 6)
    x[0, 3, 3, 3] = torch.nan
    x[0, 9, 0, 0] = torch.inf
    check_cuda_tactic(NAME, window(4), [x, rand(16, 4, 3, 3)], constants=[1])


def test_refusals() -> None:
    x, w = rand(1, 8, 9, 9), rand(8, 1, 3, 3)
    assert_refused(NAME, window(8), [x, w], reason="depthwise", constants=[1])
    assert_refused(NAME, window(1), [x, rand(8, 8, 3, 3)], reason="1 groups", constants=[1])
    assert_refused(NAME, window(4), [x, rand(8, 2, 3, 3)], reason="not constant")
