import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_testing import check_rule, lower_model
from torch import nn
from torch.nn import functional as F

from torch2rt.layers.pool import Pool
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "max 1d": (nn.MaxPool1d(3, 2, 1), (2, 3, 9)),
    "max 2d": (nn.MaxPool2d(3, stride=2, padding=1), (2, 3, 8, 7)),
    "max 2d ceil": (nn.MaxPool2d(3, stride=2, ceil_mode=True), (2, 3, 8, 7)),
    "max 2d ceil with padding": (nn.MaxPool2d(2, 2, 1, ceil_mode=True), (2, 3, 7, 6)),
    "max 2d dilated": (nn.MaxPool2d((2, 3), 1, dilation=2), (2, 3, 7, 8)),
    "max 3d": (nn.MaxPool3d((1, 2, 2)), (2, 3, 3, 6, 5)),
    "mean 1d": (nn.AvgPool1d(2), (2, 3, 9)),
    "mean 2d": (nn.AvgPool2d(3, 1, 1), (2, 3, 6, 6)),
    "mean 2d without padding": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 3, 6, 7)),
    "mean 2d ceil": (nn.AvgPool2d(2, ceil_mode=True), (2, 3, 5, 7)),
    "mean 2d ceil without padding": (
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False), (2, 3, 5, 7)
    ),
    "mean 2d ceil with padding that counts, exact": (
        nn.AvgPool2d(2, 2, 1, ceil_mode=True), (2, 3, 6, 6)
    ),
    "mean 2d divisor": (nn.AvgPool2d(2, 2, 1, divisor_override=3), (2, 3, 6, 7)),
    "mean 3d": (nn.AvgPool3d(2, 1), (2, 3, 3, 4, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    model, shape = CASES[name]
    kinds = {"pool", "pointwise"} if "divisor" in name else {"pool"}
    check_rule(model, torch.randn(shape), kinds=kinds)


def test_negative_values_beat_padding_in_a_maximum() -> None:
    check_rule(nn.MaxPool2d(3, 2, 1), -1 - torch.rand(2, 1, 4, 4))


def test_input_without_batch_axis() -> None:
    check_rule(nn.MaxPool2d(2), torch.randn(3, 4, 4), dynamic=False, kinds={"reshape", "pool"})


def test_indices_that_nobody_reads_are_no_obstacle() -> None:
    def values(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 2, return_indices=True)[0]

    check_rule(values, torch.randn(2, 3, 4, 4), kinds={"pool"})


def test_indices_that_are_read_fall_back() -> None:
    lowered = lower_model(nn.MaxPool2d(2, return_indices=True), torch.randn(2, 3, 4, 4))
    assert "indices" in lowered.fallbacks[0].reason


def test_ceil_mode_with_padding_that_counts_falls_back() -> None:
    pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True)
    lowered = lower_model(pool, torch.randn(2, 3, 6, 6))
    assert "padding that counts" in lowered.fallbacks[0].reason


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 12), kernel=st.integers(1, 4), stride=st.integers(1, 4),
    padding=st.integers(0, 2), dilation=st.integers(1, 2), is_ceil=st.booleans(),
    counts=st.booleans(), mode=st.sampled_from(["max", "mean"]),
)
def test_all_windows_match_torch(
    size: int, kernel: int, stride: int, padding: int, dilation: int, is_ceil: bool, counts: bool,
    mode: str,
) -> None:
    assume(padding <= kernel // 2)
    dilation = dilation if mode == "max" else 1
    assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    x = torch.randn(2, 3, size, dtype=torch.float64)
    pool: nn.Module = (
        nn.MaxPool1d(kernel, stride, padding, dilation, ceil_mode=is_ceil)
        if mode == "max"
        else nn.AvgPool1d(kernel, stride, padding, is_ceil, counts)
    )
    lowered = lower_model(pool, x)
    if lowered.fallbacks:
        assert "padding that counts" in lowered.fallbacks[0].reason
        assert (mode, is_ceil, counts) == ("mean", True, True)
        return
    (layer,) = lowered.network.layers
    assert layer.output.shape == tuple(pool(x).shape)
    torch.testing.assert_close(layer.reference([x])[0], pool(x))


def test_symbolic_spatial_sizes() -> None:
    kind = Pool("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    x = TensorType((symbol("n"), 3, symbol("h"), 9), DType.FLOAT32)
    assert str(kind.infer([x])[0]) == "float32[n,3,floordiv(h-1,2)+1,5]"


def test_bad_attributes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown pooling 'median'"):
        Pool("median", (2,), (2,), (0,), (0,), (1,))
    with pytest.raises(ValueError, match="no dilation"):
        Pool("mean", (2,), (2,), (0,), (0,), (2,))
    with pytest.raises(ValueError, match="over 1 axes"):
        Pool("max", (2,), (2,), (0,), (0,), (1,)).infer([TensorType((2, 3), DType.FLOAT32)])
