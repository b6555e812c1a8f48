import pytest
import torch
from layer_testing import check_rule

from torch2rt.layers.cumulative import Cumulative
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "sum": lambda x: x.cumsum(1),
    "sum from the last axis": lambda x: x.cumsum(-1),
    "product": lambda x: x.cumprod(1),
    "log-sum-exp": lambda x: x.logcumsumexp(1),
    "as another dtype": lambda x: x.cumsum(1, dtype=torch.float64),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    check_rule(CASES[name], torch.randn(2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool])
def test_integers_sum_in_int64(dtype: torch.dtype) -> None:
    check_rule(lambda x: (x.cumsum(1), x.cumprod(1)), torch.randint(0, 3, (2, 5)).to(dtype))


def test_scalar_is_its_own_sum() -> None:
    check_rule(lambda x: x.sum().cumsum(0), torch.randn(2, 3))


def test_bad_attributes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown running"):
        Cumulative("mean", 0)
    with pytest.raises(ValueError, match="along axis 1"):
        Cumulative("sum", 1).infer([TensorType((2,), DType.FLOAT32)])
