import pytest
import torch
from layer_testing import check_rule, lower_model

from torch2rt.layers.argreduce import ArgReduce
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "argmax": lambda x: x.argmax(1),
    "argmax keeping": lambda x: x.argmax(-1, keepdim=True),
    "argmax of all": lambda x: x.argmax(),
    "argmin": lambda x: x.argmin(0),
    "argmin of all": lambda x: torch.argmin(x, keepdim=True),
    "max": lambda x: tuple(x.max(1)),
    "min": lambda x: tuple(x.min(2, keepdim=True)),
    "indices alone": lambda x: x.max(1).indices,
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    check_rule(CASES[name], torch.randn(2, 3, 4))


def test_values_alone_are_a_reduction() -> None:
    check_rule(lambda x: x.max(1).values, torch.randn(2, 3, 4), kinds={"reduce"})


def test_first_of_equal_values() -> None:
    check_rule(lambda x: (x.argmax(1), x.argmin(1)), torch.tensor([[1, 2, 2, 1], [3, 3, 3, 3]]))


def test_scalar_falls_back() -> None:
    assert "scalar" in lower_model(torch.argmax, torch.tensor(1.0)).fallbacks[0].reason


def test_bad_attributes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown reduction"):
        ArgReduce("mean", 0)
    with pytest.raises(ValueError, match="over axis 1"):
        ArgReduce("max", 1).infer([TensorType((2,), DType.FLOAT32)])
