"""Numbers computed from sizes."""

import pytest
import torch
from layer_testing import check_rule, lower_model

from torch2rt.errors import LoweringError


def test_numbers_of_sizes_scale_tensors() -> None:
    check_rule(
        lambda x: (
            x * x.shape[0] ** -0.5, x * (x.shape[0] / 3), x + 1.5 * x.shape[0],
            x / (x.shape[0] / 2 - 0.25), torch.full((2,), x.shape[0] / 2, dtype=x.dtype),
        ),
        torch.randn(3, 4),
    )


def test_a_number_that_is_not_known_is_a_clear_error() -> None:
    with pytest.raises(LoweringError, match="not known"):
        lower_model(lambda x: x + (x.shape[0] > 1), torch.randn(3, 4), dynamic=True)
