"""Axis orders and the shuffles built of them."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import check_rule

from torch2rt.layers.transpose import Transpose
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType


def test_orders() -> None:
    check_rule(
        lambda x: (
            x.permute(0, 2, 3, 1), x.permute(-1, 0, 1, 2), x.transpose(1, 3), x.transpose(-1, -2),
            x.swapaxes(0, 1), x.swapdims(2, 1), x.mT, x.adjoint(), x.movedim(1, -1),
            x.movedim((0, 1), (2, 0)), x.moveaxis(3, 0), x.permute(3, 2, 1, 0),
        ),
        torch.randn(2, 3, 4, 5),
        kinds={"transpose"},
    )


def test_matrices() -> None:
    check_rule(lambda x: (x.t(), x.T, x.mH, x.H), torch.randn(3, 4), kinds={"transpose"})


def test_an_order_that_changes_nothing_adds_no_layer() -> None:
    check_rule(lambda x: x.permute(0, 1, 2).transpose(1, 1) * 2, torch.randn(3, 4, 5),
               kinds={"pointwise"})


def test_shuffles() -> None:
    check_rule(
        lambda x: (F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x, 4)),
        torch.randn(2, 8, 4, 6),
        kinds={"reshape", "transpose"},
    )
    check_rule(lambda x: F.pixel_shuffle(x, 3), torch.randn(9, 4, 5), dynamic=False)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(4)), st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_infer_is_what_the_reference_gives(order: list[int], sizes: list[int]) -> None:
    kind = Transpose(tuple(order))
    (inferred,) = kind.infer([TensorType(tuple(sizes), DType.FLOAT32)])
    (value,) = kind.reference([torch.zeros(sizes)])
    assert inferred.shape == tuple(value.shape)
    symbols = tuple(symbol(f"s{axis}") for axis in range(4))
    (symbolic,) = kind.infer([TensorType(symbols, DType.FLOAT32)])
    assert [str(dim) for dim in symbolic.shape] == [f"s{axis}" for axis in order]
