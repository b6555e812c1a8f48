import pytest
import torch
from layer_testing import check_rule, lower_model
from torch import nn

from torch2rt import expression as ex
from torch2rt.network.dtype import DType


def trained(norm: nn.Module) -> nn.Module:
    """The norm with statistics and weights that are not the initial ones."""
    for name, value in norm.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + (0.5 if "var" in name else -0.5))
    return norm


CASES = {
    "1d": (nn.BatchNorm1d(3), (2, 3)),
    "1d with length": (nn.BatchNorm1d(3), (2, 3, 5)),
    "2d": (nn.BatchNorm2d(3, eps=0.1), (2, 3, 4, 5)),
    "2d without weights": (nn.BatchNorm2d(3, affine=False), (2, 3, 4, 5)),
    "3d": (nn.BatchNorm3d(3), (2, 3, 2, 4, 5)),
    "instance norm with statistics": (
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (2, 3, 4, 5)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    model, shape = CASES[name]
    check_rule(trained(model), torch.randn(shape), kinds={"pointwise"})


def test_result_is_one_multiplication_and_one_addition_by_constants() -> None:
    network = check_rule(trained(nn.BatchNorm2d(3)), torch.randn(2, 3, 4, 5))
    (layer,) = network.layers
    assert layer.kind.expression == ex.parse_expression("add(mul(i0,i1),i2)")
    for term in layer.inputs[1:]:
        assert term.is_constant
        assert term.shape == (3, 1, 1)
        assert term.dtype is DType.FLOAT32


def test_low_precision_keeps_its_constants_in_float32() -> None:
    lowered = lower_model(trained(nn.BatchNorm2d(3)).bfloat16(), torch.randn(2, 3, 4, 5).bfloat16())
    (layer,) = lowered.network.layers
    assert [term.dtype for term in layer.inputs[1:]] == [DType.FLOAT32] * 2
    assert layer.output.dtype is DType.BFLOAT16


def test_statistics_of_the_batch_fall_back() -> None:
    lowered = lower_model(nn.BatchNorm2d(3, track_running_stats=False), torch.randn(2, 3, 4, 5))
    assert "training mode" in lowered.fallbacks[0].reason


def test_weights_that_are_computed_fall_back() -> None:
    def model(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(x, mean, mean)

    lowered = lower_model(model, torch.randn(2, 3, 4), torch.rand(3))
    assert "no constants" in lowered.fallbacks[0].reason


class Native(nn.BatchNorm2d):
    """A batch norm through the overload that decompositions give."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        native = torch.ops.aten._native_batch_norm_legit_no_training.default
        terms = (self.weight, self.bias, self.running_mean, self.running_var)
        return native(x, *terms, 0.1, self.eps)[0]


def test_native_overload_gives_its_first_result() -> None:
    check_rule(trained(Native(3, eps=0.1)), torch.randn(2, 3, 4, 5), kinds={"pointwise"})
