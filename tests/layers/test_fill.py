"""Tensors of one value, of known and of symbolic shape."""

import pytest
import torch
from layer_testing import check_rule, lower_model
from torch import Tensor


def test_shapes_of_the_input() -> None:
    check_rule(
        lambda x: (
            torch.zeros_like(x), torch.ones_like(x), torch.full_like(x, 2.5), x.new_zeros(3, 2),
            x.new_ones(x.shape[0], 2), x.new_full((x.shape[0],), 3.0), torch.fill(x, 4.0),
            torch.zeros(x.shape[0], 4, dtype=x.dtype), torch.ones(2, x.shape[0]).to(torch.int64),
            torch.full((x.shape[0],), x.shape[0]), torch.zeros_like(x, dtype=torch.bool),
            torch.full((2,), True), torch.scalar_tensor(3, dtype=torch.int64),
            torch.fill(torch.empty_like(x), 1.0),
        ),
        torch.randn(3, 4),
    )


def test_known_shapes_are_constants() -> None:
    check_rule(lambda x: x + torch.ones(4, dtype=x.dtype), torch.randn(3, 4), kinds={"pointwise"})


def test_large_ones_stay_layers() -> None:
    check_rule(lambda x: torch.zeros(1 << 19, dtype=x.dtype) + x[0, 0], torch.randn(3, 4),
               kinds={"fill", "pointwise", "slice", "reshape"})


def test_identity_matrices() -> None:
    check_rule(lambda x: (x @ torch.eye(4, dtype=x.dtype), torch.eye(2, 3, dtype=x.dtype)),
               torch.randn(3, 4))


def test_copies_into_fresh_memory() -> None:
    check_rule(lambda x: torch.ops.aten.copy(torch.empty_like(x), x[0]), torch.randn(3, 4))


@pytest.mark.parametrize("fill", [
    lambda fresh: torch.full_like(fresh, 3.5), torch.ones_like, torch.zeros_like,
    lambda fresh: fresh.new_full((4,), 2.0),
])
def test_what_is_filled_in_fresh_memory(fill) -> None:
    check_rule(lambda x: x + fill(torch.empty(4, dtype=x.dtype)), torch.randn(3, 4))


def test_uninitialised_memory_that_is_read_falls_back() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.empty_like(x) * 0 + x

    (node,) = lower_model(model, torch.randn(3, 4)).fallbacks
    assert node.reason == "uninitialised memory is read"
