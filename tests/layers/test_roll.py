"""Rolled axes."""

import pytest
import torch
from layer_testing import check_rule

from torch2rt.layers.roll import Roll
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_rolls() -> None:
    check_rule(
        lambda x: (x.roll((1, -2), (1, 2)), x.roll(2, 1), x.roll(-1, 0), x.roll(7, -1)),
        torch.randn(3, 4, 5), kinds={"roll"},
    )
    check_rule(lambda x: x.roll(3), torch.randn(3, 4))


def test_no_shift_adds_no_layer() -> None:
    check_rule(lambda x: x.roll((0, 0), (1, 2)) + 1, torch.randn(3, 4, 5), kinds={"pointwise"})


def test_an_axis_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="roll of"):
        Roll((1,), (2,)).infer([TensorType((3, 4), DType.FLOAT32)])
