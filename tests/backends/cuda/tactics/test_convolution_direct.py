"""Our direct convolutions against the reference: every attribute, rank, dtype and layout."""

from __future__ import annotations

import pytest
import torch
from cuda_testing import TestedDevice, assert_refused, check_cuda_tactic

from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution

pytestmark = pytest.mark.usefixtures("cuda_device")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def convolution(axes: int = 2, **changes: object) -> Convolution:
    """Stride 1, no padding, unless changed."""
    values = dict.fromkeys(("stride", "dilation"), (1,) * axes)
    values |= dict.fromkeys(("padding_before", "padding_after"), (0,) * axes)
    return Convolution(**(values | changes))


def deconvolution(axes: int = 2, **changes: object) -> Deconvolution:
    """Stride 1, no padding, unless changed."""
    values = dict.fromkeys(("stride", "dilation"), (1,) * axes)
    values |= dict.fromkeys(("padding_before", "padding_after"), (0,) * axes)
    return Deconvolution(**(values | changes))


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape) * 1000 + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_channels_and_dtypes(dtype: torch.dtype, channels: int) -> None:
    kind = convolution(stride=(2, 1), padding_before=(1, 2), padding_after=(0, 1))
    check_cuda_tactic(
        "convolution.cuda.direct", kind,
        [rand(2, channels, 7, 9, dtype=dtype), rand(6, channels, 3, 3, dtype=dtype)],
        constants=[1],
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_one_to_three_axes_with_dilation_and_groups(axes: int) -> None:
    kind = convolution(
        axes, dilation=(2,) * axes, padding_before=(2,) * axes, padding_after=(1,) * axes, groups=3,
        stride=(2,) * axes,
    )
    check_cuda_tactic(
        "convolution.cuda.direct", kind,
        [rand(2, 6, *(7, 8, 6)[:axes]), rand(12, 2, *(3, 2, 3)[:axes]), rand(12, *(1,) * axes)],
        "relu(add(i0,i1))", constants=[1, 2],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_computed(dtype: torch.dtype) -> None:
    check_cuda_tactic(
        "convolution.cuda.direct", convolution(groups=2, padding_before=(1, 1)),
        [rand(1, 4, 5, 6, dtype=dtype), rand(8, 2, 3, 3, dtype=dtype)],
    )


def test_epilogue_of_bias_scale_and_residual() -> None:
    x, w = rand(2, 8, 5, 6, dtype=torch.float16), rand(16, 8, 3, 3, dtype=torch.float16)
    check_cuda_tactic(
        "convolution.cuda.direct", convolution(),
        [x, w, rand(16, 1, 1), rand(2, 16, 1, 1, dtype=torch.float16),
         rand(2, 16, 3, 4, dtype=torch.float16)],
        "silu(add(mul(add(i0,i1),i2),i3))", constants=[1, 2],
    )


@pytest.mark.parametrize("shape", [(2, 8, 4, 8), (1, 16, 5, 8)])
def test_pitched_operands(shape: tuple[int, ...]) -> None:
    n, c, h, w = shape
    check_cuda_tactic(
        "convolution.cuda.direct", convolution(), [
            rand(*shape, dtype=torch.float16), rand(8, c, 1, 1, dtype=torch.float16),
            rand(n, 8, h, w, dtype=torch.float16),
        ], "add(i0,i1)", constants=[1], pitched={"i0": 1, "i2": 1, "o0": 1},
    )


def test_nan_stays_in_its_windows() -> None:
    x = rand(1, 2, 6, 6)
    x[0, 1, 3, 3] = torch.nan
    check_cuda_tactic(
        "convolution.cuda.direct", convolution(), [x, rand(2, 2, 3, 3)], "relu(i0)", constants=[1]
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transposed(axes: int, dtype: torch.dtype) -> None:
    kind = deconvolution(
        axes, stride=(2, 3, 2)[:axes], dilation=(1, 2, 1)[:axes], padding_before=(1,) * axes,
        padding_after=(0, 1, -1)[:axes], groups=2,
    )
    check_cuda_tactic(
        "deconvolution.cuda.direct", kind,
        [rand(2, 4, *(4, 3, 5)[:axes], dtype=dtype), rand(4, 3, *(3, 2, 4)[:axes], dtype=dtype),
         rand(6, *(1,) * axes)],
        "add(i0,i1)", constants=[1, 2],
    )


def test_transposed_with_computed_weights() -> None:
    check_cuda_tactic(
        "deconvolution.cuda.direct", deconvolution(stride=(2, 2)),
        [rand(1, 8, 3, 4), rand(8, 4, 2, 2)],
    )


def test_integers_are_refused(cuda_device: TestedDevice) -> None:
    assert_refused(
        "convolution.cuda.direct", convolution(),
        [torch.ones(1, 1, 3, 3, dtype=torch.int64), torch.ones(1, 1, 2, 2, dtype=torch.int64)],
        reason="int64",
    )
