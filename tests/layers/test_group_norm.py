import pytest
import torch
from layer_testing import check_rule, lower_model
from torch import nn

from torch2rt.layers.group_norm import GroupNorm
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def trained(norm: nn.Module) -> nn.Module:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


CASES = {
    "groups": (trained(nn.GroupNorm(2, 6, eps=0.1)), (2, 6, 4, 5)),
    "one group": (trained(nn.GroupNorm(1, 6)), (2, 6, 4, 5)),
    "without spatial axes": (trained(nn.GroupNorm(2, 6)), (2, 6)),
    "without weights": (nn.GroupNorm(3, 6, affine=False), (2, 6, 5)),
    "instance norm": (nn.InstanceNorm2d(6), (2, 6, 4, 5)),
    "instance norm with weights": (trained(nn.InstanceNorm1d(6, affine=True)), (2, 6, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    model, shape = CASES[name]
    check_rule(model, torch.randn(shape), kinds={"group_norm"})


def test_native_overload_gives_its_first_result() -> None:
    def model(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.native_group_norm(x, None, None, 2, 6, 5, 3, 1e-5)

    x = torch.randn(2, 6, 5)
    check_rule(lambda x: model(x)[0], x, dynamic=False, kinds={"group_norm"})
    assert "statistics" in lower_model(model, x).fallbacks[0].reason


def test_inputs_that_do_not_fit_are_refused() -> None:
    x, w = TensorType((2, 6, 4), DType.FLOAT32), TensorType((5,), DType.FLOAT32)
    with pytest.raises(ValueError, match="do not divide"):
        GroupNorm(4, 1e-5).infer([x])
    with pytest.raises(ValueError, match=r"needs weights \[6\]"):
        GroupNorm(2, 1e-5, has_weight=True).infer([x, w])
    with pytest.raises(ValueError, match="no channel axis"):
        GroupNorm(2, 1e-5).infer([w])
