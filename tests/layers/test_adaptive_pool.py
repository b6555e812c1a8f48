import pytest
import torch
from layer_testing import check_rule, lower_model
from torch import nn
from torch.nn import functional as F

from torch2rt.layers.adaptive_pool import AdaptivePool
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "global": (nn.AdaptiveAvgPool2d(1), (2, 3, 5, 4), {"reduce"}),
    "global 1d": (nn.AdaptiveAvgPool1d(1), (2, 3, 5), {"reduce"}),
    "global 3d": (nn.AdaptiveAvgPool3d(1), (2, 3, 2, 4, 3), {"reduce"}),
    "global max": (nn.AdaptiveMaxPool2d(1), (2, 3, 5, 4), {"reduce"}),
    "one axis": (nn.AdaptiveAvgPool2d((None, 1)), (2, 3, 5, 4), {"reduce"}),
    "divisible": (nn.AdaptiveAvgPool2d((2, 3)), (2, 3, 4, 9), {"pool"}),
    "divisible max": (nn.AdaptiveMaxPool1d(3), (2, 3, 9), {"pool"}),
    "kept": (nn.AdaptiveAvgPool2d(7), (2, 3, 7, 7), set()),
    "uneven": (nn.AdaptiveAvgPool2d((2, 3)), (2, 3, 5, 7), {"adaptive_pool"}),
    "larger": (nn.AdaptiveAvgPool2d(7), (2, 3, 3, 3), {"adaptive_pool"}),
    "uneven max": (nn.AdaptiveMaxPool2d((2, 3)), (2, 3, 5, 7), {"adaptive_pool"}),
    "uneven 3d": (nn.AdaptiveAvgPool3d(2), (2, 3, 3, 4, 5), {"adaptive_pool"}),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    model, shape, kinds = CASES[name]
    check_rule(model, torch.randn(shape), kinds=kinds)


def test_input_without_batch_axis() -> None:
    check_rule(nn.AdaptiveAvgPool2d(2), torch.randn(3, 5, 5), dynamic=False)
    check_rule(nn.AdaptiveAvgPool2d(1), torch.randn(3, 5, 5), kinds={"reduce"})


def test_symbolic_spatial_sizes() -> None:
    check_rule(lambda x: F.adaptive_avg_pool1d(x.transpose(0, 2), 1), torch.randn(5, 3, 2))
    check_rule(lambda x: F.adaptive_avg_pool1d(x.transpose(0, 2), 3), torch.randn(5, 3, 2))


def test_indices_that_are_read_fall_back() -> None:
    pool = nn.AdaptiveMaxPool2d(2, return_indices=True)
    assert "indices" in lower_model(pool, torch.randn(2, 3, 4, 4)).fallbacks[0].reason


def test_bad_attributes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown pooling"):
        AdaptivePool("min", (2,))
    with pytest.raises(ValueError, match="cannot take"):
        AdaptivePool("max", (2, 2)).infer([TensorType((2, 3, 4), DType.FLOAT32)])
