"""Broadcasts, repeats and grids."""

import pytest
import torch
from layer_testing import check_rule

from torch2rt.layers.expand import Expand
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_expands() -> None:
    check_rule(
        lambda x, y: (
            y.expand(-1, -1, 4), y.expand_as(x), torch.broadcast_to(y, (2, *x.shape)),
            *torch.broadcast_tensors(x, y), y.expand(x.shape[0], 5, 4), y[0].expand(7, 5, 4),
        ),
        torch.randn(3, 5, 4), torch.randn(3, 5, 1),
    )


def test_a_token_for_every_image() -> None:
    token = torch.randn(1, 1, 4)
    check_rule(lambda x: torch.cat([token.to(x.dtype).expand(x.shape[0], -1, -1), x], 1),
               torch.randn(3, 5, 4))


def test_repeats() -> None:
    check_rule(
        lambda x: (
            x.repeat(1, 2, 3), x.repeat(2, 1, 1, 1), x.tile(2), x.tile(2, 1, 2, 1),
            x.repeat_interleave(3, 1), x.repeat_interleave(2, -1), x.repeat(x.shape[0], 1, 1),
            x[:, :1].repeat(1, 4, 2), x.repeat_interleave(2, 0), x.repeat_interleave(2),
        ),
        torch.randn(3, 2, 4),
    )


def test_grids() -> None:
    check_rule(
        lambda x, y: (*torch.meshgrid(x, y, indexing="ij"), *torch.meshgrid(x, y, indexing="xy")),
        torch.randn(3), torch.randn(4),
    )


def test_new_axes_of_size_one_are_a_reshape() -> None:
    check_rule(lambda x: x.expand(1, 1, -1, -1), torch.randn(3, 4), kinds={"reshape"})


@pytest.mark.parametrize("shape", [(2, 3), (4,), (3, 4, 1)])
def test_what_does_not_broadcast_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expand|broadcast"):
        Expand(shape).infer([TensorType((3, 4), DType.FLOAT32)])
