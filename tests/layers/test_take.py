"""Embeddings and other selections along one axis."""

import pytest
import torch
import torch.nn.functional as F
from layer_testing import check_rule, lower_model
from torch import nn

from torch2rt.layers.take import Take
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_embedding() -> None:
    check_rule(nn.Embedding(7, 4, padding_idx=0), torch.tensor([[0, 6], [3, 3], [1, 2]]),
               kinds={"take"})
    check_rule(nn.Embedding(7, 4), torch.tensor([0, 6, 3], dtype=torch.int32), kinds={"take"})


def test_one_index_tensor() -> None:
    where = torch.tensor([[0, -1], [2, 1]])
    check_rule(
        lambda x: (x[:, where], x[..., where[0]], x.index_select(1, where[1]),
                   x[:, :, torch.tensor(1)], torch.take(x, where), x[where[:, 0]]),
        torch.randn(4, 3, 5),
    )


def test_windows() -> None:
    check_rule(lambda x: (x.unfold(1, 3, 2), x.unfold(2, 2, 1)), torch.randn(3, 7, 4))
    check_rule(
        lambda x: (F.unfold(x, 3), F.unfold(x, (2, 3), stride=2, padding=1),
                   F.unfold(x, 2, dilation=2), F.unfold(x, 2, stride=2)),
        torch.randn(3, 2, 6, 8),
    )


def test_a_mask_falls_back() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return x[torch.tensor([True, False, True])]

    (node,) = lower_model(model, torch.randn(3, 2)).fallbacks
    assert "mask" in node.reason


def test_a_float_index_is_refused() -> None:
    x = TensorType((3, 4), DType.FLOAT32)
    with pytest.raises(ValueError, match="take along axis 0"):
        Take(0).infer([x, x])
