"""Slices replaced."""

import pytest
import torch
from layer_testing import check_rule

from torch2rt.layers.slice_scatter import SliceScatter
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_slices() -> None:
    check_rule(
        lambda x: (
            torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 3),
            torch.slice_scatter(x, x[:, :2] * 2, 1, 0, 4, 2),
            torch.slice_scatter(x, x[:, :2] * 2, 1, -2),
            torch.select_scatter(x, x[:, 0] + 1, 1, -1),
            torch.slice_scatter(x, x[1:] * 2, 0, 1),
            torch.slice_scatter(x, x * 2, 1),
        ),
        torch.randn(3, 4, 5),
    )


def test_a_source_that_leaves_is_refused() -> None:
    types = [TensorType((4,), DType.FLOAT32), TensorType((2,), DType.FLOAT32)]
    with pytest.raises(ValueError, match="leaves it"):
        SliceScatter((1,), (3,)).infer(types)
