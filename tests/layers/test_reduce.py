import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_testing import check_rule

from torch2rt.layers.reduce import Reduce, reduction_axes
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "sum": lambda x: x.sum(),
    "sum over axes": lambda x: x.sum((1, -1)),
    "sum as float64": lambda x: x.sum(1, dtype=torch.float64),
    "mean": lambda x: x.mean(),
    "mean over axes": lambda x: x.mean((2, 3), keepdim=True),
    "mean over the batch": lambda x: x.mean(0),
    "amax": lambda x: x.amax((0, 2)),
    "amax of all": lambda x: torch.amax(x, ()),
    "amin": lambda x: x.amin(-1, keepdim=True),
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "aminmax": lambda x: tuple(torch.aminmax(x, dim=1)),
    "prod": lambda x: x.prod(1),
    "prod of all": lambda x: x.prod(),
    "any": lambda x: (x > 2).any(),
    "any over an axis": lambda x: (x > 1).any(1),
    "any over axes": lambda x: torch.any(x > 1, (1, 2), keepdim=True),
    "all": lambda x: torch.all(x > -9),
    "all of floats": lambda x: x.all(2),
    "count": lambda x: torch.count_nonzero(x > 0, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    check_rule(CASES[name], torch.randn(2, 3, 4, 5))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.uint8])
def test_integers_sum_in_int64(dtype: torch.dtype) -> None:
    x = torch.randint(0, 9, (2, 3, 4)).to(dtype)
    check_rule(lambda x: (x.sum(1), x.prod(2), x.sum()), x)
    check_rule(lambda x: (x.any(1), x.all()), x)


def test_nan_wins_a_maximum() -> None:
    x = torch.tensor([[1.0, torch.nan, 2.0], [1.0, 3.0, 2.0]])
    check_rule(lambda x: (x.amax(1), x.amin(1), x.max()), x)


def test_scalar_is_its_own_sum() -> None:
    check_rule(lambda x: (x.sum().sum(), (x > 0).sum().any()), torch.randn(2, 3))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data(),
    mode=st.sampled_from(["sum", "mean", "max", "min", "prod", "any", "all"]),
    keepdim=st.booleans(),
)
def test_inferred_type_is_what_torch_gives(
    shape: list[int], data: st.DataObject, mode: str, keepdim: bool
) -> None:
    rank = len(shape)
    dims = data.draw(st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
    negative = [dim - rank for dim in dims]
    kind = Reduce(mode, reduction_axes(negative, rank), keepdim)
    x = torch.randn(shape)
    (got,) = kind.reference([x])
    (inferred,) = kind.infer([TensorType(tuple(shape), DType.FLOAT32)])
    assert inferred.shape == tuple(got.shape)
    assert inferred.dtype.value == str(got.dtype).removeprefix("torch.")
    if mode == "prod":
        want = torch.exp(torch.log(x.abs()).sum(dims, keepdim=keepdim))
        torch.testing.assert_close(got.abs(), want, rtol=1e-4, atol=1e-6)


def test_symbolic_axes() -> None:
    x = TensorType((symbol("n"), 3, symbol("h")), DType.FLOAT32)
    assert str(Reduce("sum", (0, 1), keepdim=True).infer([x])[0]) == "float32[1,1,h]"


def test_no_axes_mean_all() -> None:
    assert reduction_axes(None, 3) == reduction_axes([], 3) == (0, 1, 2)
    assert reduction_axes(-1, 3) == (2,)
    assert reduction_axes(0, 0) == ()


def test_bad_attributes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown reduction 'median'"):
        Reduce("median", (0,))
    with pytest.raises(ValueError, match="must ascend"):
        Reduce("sum", (1, 0))
    with pytest.raises(ValueError, match="over axes"):
        Reduce("sum", (2,)).infer([TensorType((2, 3), DType.FLOAT32)])
