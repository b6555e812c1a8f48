"""Weights as direction times length."""

import pytest
import torch
from layer_testing import check_rule
from torch import nn


@pytest.mark.parametrize("axis", [0, 2])
def test_weight_norm(axis: int) -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3), dim=axis)
    check_rule(model, torch.randn(3, 3, 8))


def test_all_axes_together() -> None:
    check_rule(lambda v: torch._weight_norm(v, torch.full((1, 1), 2.0, dtype=v.dtype), -1),
               torch.randn(3, 4), dynamic=False)
