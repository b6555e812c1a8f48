import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_testing import check_rule, lower_model
from torch import nn

from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "1d": (nn.ConvTranspose1d(3, 4, 3, stride=2), (2, 3, 5)),
    "2d": (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 3, 5)),
    "groups": (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (2, 4, 3, 5)),
    "output padding": (nn.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1), (2, 2, 4, 4)),
    "output padding alone": (nn.ConvTranspose2d(2, 3, 2, 3, output_padding=2), (2, 2, 3, 3)),
    "dilated": (nn.ConvTranspose2d(2, 3, (3, 2), dilation=(2, 1), padding=(2, 0)), (2, 2, 4, 3)),
    "3d": (nn.ConvTranspose3d(2, 3, 2, stride=(1, 2, 2)), (2, 2, 2, 3, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    model, shape = CASES[name]
    bias = {"pointwise"} if model.bias is not None else set()
    check_rule(model, torch.randn(shape), kinds={"deconvolution"} | bias)


def test_input_without_batch_axis_falls_back() -> None:
    lowered = lower_model(nn.ConvTranspose2d(2, 3, 2), torch.randn(2, 3, 3))
    assert "without batch axis" in lowered.fallbacks[0].reason


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(1, 6), kernel=st.integers(1, 4), stride=st.integers(1, 3),
    padding=st.integers(0, 3), extra=st.integers(0, 2), dilation=st.integers(1, 2),
)
def test_all_windows_match_torch(
    size: int, kernel: int, stride: int, padding: int, extra: int, dilation: int
) -> None:
    assume(extra < max(stride, dilation))
    assume((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1 > 0)
    kind = Deconvolution((stride,), (padding,), (padding - extra,), (dilation,))
    x = torch.randn(2, 2, size, dtype=torch.float64)
    w = torch.randn(2, 3, kernel, dtype=torch.float64)
    want = nn.functional.conv_transpose1d(x, w, None, stride, padding, extra, 1, dilation)
    (got,) = kind.reference([x, w])
    torch.testing.assert_close(got, want)
    types = [TensorType(tuple(t.shape), DType.FLOAT64) for t in (x, w)]
    assert kind.infer(types)[0].shape == tuple(want.shape)


def test_symbolic_sizes_stay_symbolic() -> None:
    kind = Deconvolution((2, 2), (1, 1), (0, 0), (1, 1))
    x = TensorType((symbol("n"), 3, symbol("h"), 8), DType.FLOAT32)
    w = TensorType((3, 5, 3, 3), DType.FLOAT32)
    assert str(kind.infer([x, w])[0]) == "float32[n,5,2*h,16]"


def test_channels_that_do_not_fit_are_refused() -> None:
    kind = Deconvolution((1,), (0,), (0,), (1,))
    types = [TensorType((1, 4, 8), DType.FLOAT32), TensorType((3, 5, 3), DType.FLOAT32)]
    with pytest.raises(ValueError, match="needs 3 channels"):
        kind.infer(types)
