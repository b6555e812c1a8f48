import pytest
import torch
from layer_testing import check_rule, lower_model
from torch import nn
from torch.nn import functional as F

from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def trained(norm: nn.Module) -> nn.Module:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


CASES = {
    "layer norm": trained(nn.LayerNorm(5)),
    "two axes": trained(nn.LayerNorm((4, 5), eps=0.1)),
    "without bias": trained(nn.LayerNorm(5, bias=False)),
    "without weights": nn.LayerNorm(5, elementwise_affine=False),
    "bias alone": lambda x: F.layer_norm(x, (5,), None, x[0, 0]),
    "rms norm": trained(nn.RMSNorm(5)),
    "rms norm with eps": trained(nn.RMSNorm((4, 5), eps=0.1)),
    "rms norm without weights": nn.RMSNorm(5, elementwise_affine=False),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    check_rule(CASES[name], torch.randn(2, 4, 5))


def test_weights_are_inputs_of_the_layer() -> None:
    network = check_rule(trained(nn.LayerNorm(5)), torch.randn(2, 4, 5), kinds={"layer_norm"})
    assert len(network.layers[0].inputs) == 3
    assert network.layers[0].kind == LayerNorm(1, 1e-5, has_weight=True, has_bias=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_default_eps_of_an_rms_norm(dtype: torch.dtype) -> None:
    # Values so small that eps decides the result.
    x = torch.full((2, 4), 1e-3, dtype=dtype)
    lowered = lower_model(nn.RMSNorm(4, elementwise_affine=False), x)
    (layer,) = lowered.network.layers
    want = F.rms_norm(x, (4,))
    (got,) = layer.reference([x])
    torch.testing.assert_close(got, want)


def test_native_overload_gives_its_first_result() -> None:
    def model(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.native_layer_norm(x, [5], None, None, 1e-5)

    x = torch.randn(2, 4, 5)
    check_rule(lambda x: model(x)[0], x, kinds={"layer_norm"})
    assert "statistics" in lower_model(model, x).fallbacks[0].reason


def test_bias_of_an_rms_norm() -> None:
    x, weight, bias = torch.randn(2, 5), torch.randn(5), torch.randn(5)
    (got,) = LayerNorm(1, 1e-5, False, True, True).reference([x, weight, bias])
    torch.testing.assert_close(got, F.rms_norm(x, (5,), weight, 1e-5) + bias)


def test_inputs_that_do_not_fit_are_refused() -> None:
    x, w = TensorType((2, 5), DType.FLOAT32), TensorType((4,), DType.FLOAT32)
    with pytest.raises(ValueError, match="needs weights of shape"):
        LayerNorm(1, 1e-5, has_weight=True).infer([x, w])
    with pytest.raises(ValueError, match="with 0 inputs besides"):
        LayerNorm(1, 1e-5, has_weight=True).infer([x])
    with pytest.raises(ValueError, match="over 3 axes"):
        LayerNorm(3, 1e-5).infer([x])
