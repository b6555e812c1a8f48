import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import check_rule, lower_model
from torch import nn

from torch2rt.layers.convolution import Convolution
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "conv1d": (nn.Conv1d(3, 4, 3, padding=1), (2, 3, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 8, 7)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (2, 4, 6, 6)),
    "dilated": (nn.Conv2d(2, 3, (3, 2), dilation=(2, 1), padding=(2, 0)), (2, 2, 7, 6)),
    "conv3d": (nn.Conv3d(2, 3, (1, 3, 3), padding=(0, 1, 1)), (2, 2, 3, 5, 5)),
    "same": (nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 2, 7, 6)),
    "valid": (nn.Conv2d(2, 3, 3, padding="valid"), (2, 2, 7, 6)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    model, shape = CASES[name]
    bias = {"pointwise"} if model.bias is not None else set()
    check_rule(model, torch.randn(shape), kinds={"convolution"} | bias)


def test_input_without_batch_axis_falls_back_with_the_reason() -> None:
    lowered = lower_model(nn.Conv2d(2, 3, 3), torch.randn(2, 6, 6))
    assert "without batch axis" in lowered.fallbacks[0].reason


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 12), kernel=st.integers(1, 4), stride=st.integers(1, 3),
    before=st.integers(0, 3), after=st.integers(0, 3), dilation=st.integers(1, 3),
)
def test_inferred_size_is_what_torch_gives(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int
) -> None:
    if size + before + after < dilation * (kernel - 1) + 1:
        return
    kind = Convolution((stride,), (before,), (after,), (dilation,))
    x, w = torch.randn(2, 2, size), torch.randn(3, 2, kernel)
    (got,) = kind.reference([x, w])
    types = [TensorType(tuple(t.shape), DType.FLOAT32) for t in (x, w)]
    assert kind.infer(types)[0].shape == tuple(got.shape)
    padded = nn.functional.pad(x, (before, after))
    torch.testing.assert_close(got, nn.functional.conv1d(padded, w, None, stride, 0, dilation))


def test_symbolic_sizes_stay_symbolic() -> None:
    kind = Convolution((2, 2), (1, 1), (1, 1), (1, 1))
    x = TensorType((symbol("n"), 3, symbol("h"), 8), DType.FLOAT32)
    w = TensorType((5, 3, 3, 3), DType.FLOAT32)
    assert str(kind.infer([x, w])[0]) == "float32[n,5,floordiv(h-1,2)+1,4]"


def test_channels_that_do_not_fit_are_refused() -> None:
    kind = Convolution((1,), (0,), (0,), (1,))
    types = [TensorType((1, 4, 8), DType.FLOAT32), TensorType((5, 3, 3), DType.FLOAT32)]
    with pytest.raises(ValueError, match="needs 3 channels"):
        kind.infer(types)
