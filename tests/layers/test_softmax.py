import pytest
import torch
from layer_testing import check_rule, lower_model
from torch.nn import functional as F

from torch2rt.layers.softmax import Softmax
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "softmax": lambda x: x.softmax(-1),
    "softmax over channels": lambda x: F.softmax(x, 1),
    "softmax over the batch": lambda x: F.softmax(x, 0),
    "log softmax": lambda x: F.log_softmax(x, 2),
    "private softmax": lambda x: torch._softmax(x, 1, False),
    "private log softmax": lambda x: torch._log_softmax(x, 1, False),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    check_rule(CASES[name], torch.randn(2, 3, 4) * 50, kinds={"softmax"})


def test_given_dtype_is_computed_in() -> None:
    check_rule(lambda x: x.softmax(1, dtype=torch.float64), torch.randn(2, 3))
    check_rule(lambda x: F.log_softmax(x, 1, dtype=torch.float32), torch.ones(2, 3).long())


def test_scalar_falls_back() -> None:
    lowered = lower_model(lambda x: x.softmax(0), torch.tensor(1.0))
    assert "scalar" in lowered.fallbacks[0].reason


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="over axis 2"):
        Softmax(2).infer([TensorType((2, 3), DType.FLOAT32)])
    with pytest.raises(ValueError, match="int64"):
        Softmax(1).infer([TensorType((2, 3), DType.INT64)])
