"""Our tensor-core convolutions of few channels against the reference: stems and groups."""

from __future__ import annotations

import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic

from torch2rt.backends.cuda.cpp.convolution import patch
from torch2rt.layers.convolution import Convolution

pytestmark = pytest.mark.usefixtures("cuda_device")
STEMS = [f"convolution.cuda.stem_{pixels}" for pixels in (64, 128, 256)]
GROUPED = [f"convolution.cuda.grouped_{pixels}" for pixels in (64, 256)]


@pytest.fixture(autouse=True)
def _any_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "_FEW_BLOCKS", 0)


def window(
    size: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1, axes: int = 2,
    before: int | None = None,
) -> Convolution:
    after = (size - 1) * dilation // 2
    return Convolution(
        stride=(stride,) * axes, padding_before=(after if before is None else before,) * axes,
        padding_after=(after,) * axes, dilation=(dilation,) * axes, groups=groups,
    )


def rand(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stem_of_a_residual_network(name: str, dtype: torch.dtype) -> None:
    check_cuda_tactic(
        name, window(7, 2), [
            rand(2, 3, 32, 40, dtype=dtype), rand(64, 3, 7, 7, dtype=dtype),
            rand(64, 1, 1, dtype=torch.float32),
        ], "relu(add(i0,i1))", constants=[1, 2], layouts=2,
    )


@pytest.mark.parametrize("filters", [16, 24, 32, 40, 48, 80, 96, 112])
def test_counts_of_filters(filters: int) -> None:
    check_cuda_tactic(
        STEMS[1], window(3, 2),
        [rand(1, 3, 24, 17), rand(filters, 3, 3, 3), rand(filters, 1, 1, dtype=torch.float32)],
        "silu(add(i0,i1))", constants=[1, 2],
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("size", "stride", "dilation", "before"), [
    (3, 1, 1, 1), (4, 4, 1, 0), (5, 3, 1, 2), (3, 1, 2, 1), (11, 4, 1, 2), (1, 1, 1, 0),
    (2, 2, 3, 3),
])
def test_windows(channels: int, size: int, stride: int, dilation: int, before: int) -> None:
    check_cuda_tactic(
        STEMS[0], window(size, stride, dilation, before=before),
        [rand(1, channels, 19, 32), rand(16, channels, size, size)], constants=[1],
    )


def test_one_axis() -> None:
    check_cuda_tactic(
        STEMS[0], window(5, 2, axes=1), [rand(2, 3, 75), rand(24, 3, 5)], constants=[1]
    )


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_stays_in_its_windows(value: float) -> None:
    x = rand(1, 3, 20, 24)
    x[0, 1, 9, 11] = value
    check_cuda_tactic(STEMS[0], window(3, 2), [x, rand(16, 3, 3, 3)], "relu(i0)", constants=[1])
    check_cuda_tactic(STEMS[0], window(5, 1), [x, rand(16, 3, 5, 5)], constants=[1])


def test_a_residual_and_a_pitched_result() -> None:
    check_cuda_tactic(
        STEMS[0], window(3, 2),
        [rand(2, 3, 16, 16), rand(32, 3, 3, 3), rand(2, 32, 8, 8), rand(2, 32, 1, 1)],
        "mul(add(i0,i1),i2)", constants=[1], pitched={"i2": 1, "o0": 1},
    )


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize(("channels", "filters", "groups", "stride"), [
    (32, 32, 2, 1), (64, 64, 2, 2), (48, 24, 3, 1), (40, 48, 2, 1), (36, 16, 2, 1),
])
def test_groups(name: str, channels: int, filters: int, groups: int, stride: int) -> None:
    check_cuda_tactic(
        name, window(3, stride, groups=groups), [
            rand(2, channels, 7, 9), rand(filters, channels // groups, 3, 3),
            rand(filters, 1, 1, dtype=torch.float32),
        ], "relu(add(i0,i1))", constants=[1, 2],
    )


def test_wide_groups() -> None:
    check_cuda_tactic(
        GROUPED[0], window(3, 2, groups=2), [rand(1, 128, 7, 9), rand(128, 64, 3, 3)],
        "clamp(i0,0.0,6.0)", constants=[1],
    )


def test_groups_do_not_mix() -> None:
    x = rand(1, 64, 6, 6)
    x[0, 30, 3, 3] = torch.nan
    x[0, 33, 0, 0] = torch.inf
    check_cuda_tactic(
        GROUPED[0], window(groups=4), [x, rand(64, 16, 3, 3)], constants=[1],
        pitched={"i0": 1, "o0": 1},
    )


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = rand(1, 3, 16, 16), rand(16, 3, 3, 3)
    assert_refused(STEMS[0], window(), [x, w], reason="not constant")
    assert_refused(STEMS[0], window(), [x.float(), w.float()], reason="16-bit", constants=[1])
    assert_refused(
        STEMS[0], window(), [rand(1, 64, 8, 8), rand(16, 64, 3, 3)], reason="channels",
        constants=[1],
    )
    assert_refused(
        GROUPED[0], window(groups=8), [rand(1, 32, 8, 8), rand(32, 4, 3, 3)],
        reason="4 channels", constants=[1],
    )
    monkeypatch.setattr(patch, "_FEW_BLOCKS", 1)
    assert_refused(STEMS[2], window(), [x, w], reason="so little", constants=[1])
