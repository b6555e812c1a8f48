"""Elements along an axis replaced or combined."""

import pytest
import torch
from layer_testing import check_rule

from torch2rt.layers.scatter import Scatter

INDEX = torch.tensor([[0, 3], [1, 1], [2, 0]])


def test_scatter() -> None:
    check_rule(
        lambda x, i: (
            x.scatter(1, i, x[:, :2] * 2), x.scatter(1, i, 7.5), x.scatter_add(1, i, x),
            x.scatter_reduce(1, i, x, "amax"), x.scatter_reduce(1, i, x, "sum"),
            x.scatter_reduce(-1, i, x, "prod", include_self=False),
            x.scatter_reduce(1, i, x, "mean"),
        ),
        torch.randn(3, 4), INDEX,
    )


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="scatter mode 'max'"):
        Scatter(0, "max")
