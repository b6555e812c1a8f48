"""Indexed elements replaced or added to."""

import torch
import torch.nn.functional as F
from layer_testing import check_rule, lower_model
from torch import Tensor

ROWS = torch.tensor([0, 2])
COLUMNS = torch.tensor([1, -1])


def test_by_positions() -> None:
    def values(x: Tensor) -> Tensor:
        return torch.arange(2.0).to(x.dtype)

    check_rule(
        lambda x: (
            torch.index_put(x, (ROWS, COLUMNS), values(x)),
            torch.index_put(x, (ROWS, ROWS), values(x), accumulate=True),
            x.index_copy(1, COLUMNS + 1, x[:, :2]), x.index_add(1, ROWS, x[:, 1:3]),
        ),
        torch.randn(3, 4),
    )


def test_columns_back_to_images() -> None:
    check_rule(
        lambda x: (F.fold(x, (6, 8), 2, stride=2), F.fold(x, (4, 5), 2)),
        torch.randn(3, 8, 12),
    )
    check_rule(
        lambda x: (
            F.fold(x[:, :, :12], (7, 6), (3, 2), padding=1, stride=2, dilation=(1, 2)),
            F.fold(x, (6, 6), 3, padding=1),
        ),
        torch.randn(3, 18, 36), dynamic=False,
    )


def test_by_mask() -> None:
    check_rule(
        lambda x: (torch.index_put(x, (x > 0,), torch.tensor(0.5).to(x.dtype)),
                   torch.index_put(x, (x[:, 0] > 0,), torch.tensor(0.5).to(x.dtype))),
        torch.randn(3, 4),
    )


def test_a_mask_with_many_values_falls_back() -> None:
    mask = torch.tensor([True, False, True])

    def model(x: Tensor) -> Tensor:
        return torch.index_put(x, (mask,), torch.ones(2, 4))

    (node,) = lower_model(model, torch.randn(3, 4)).fallbacks
    assert node.reason == "a mask as index with more than one value"
