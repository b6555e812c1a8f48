import pytest
import torch
from layer_testing import check_rule, lower_model

from torch2rt.layers.sort import Sort
from torch2rt.network.dim import symbol
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

CASES = {
    "sort": lambda x: tuple(x.sort(1)),
    "sort descending": lambda x: tuple(torch.sort(x, descending=True)),
    "sort stable": lambda x: tuple(torch.sort(x, dim=1, stable=True)),
    "argsort": lambda x: x.argsort(1),
    "argsort stable": lambda x: torch.argsort(x, dim=1, descending=True, stable=True),
    "msort": lambda x: torch.msort(x),
    "topk": lambda x: tuple(x.topk(2)),
    "topk smallest": lambda x: tuple(x.topk(2, 1, largest=False)),
    "topk of any order": lambda x: tuple(x.topk(3, sorted=False)),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    check_rule(CASES[name], torch.randn(2, 3, 5), kinds={"sort"})


def test_equal_values_keep_their_order() -> None:
    x = torch.tensor([[2, 1, 2, 1, 2], [0, 0, 0, 0, 0]])
    check_rule(lambda x: tuple(x.sort(dim=1, stable=True)), x)


def test_scalar_falls_back() -> None:
    lowered = lower_model(lambda x: x.sort().values, torch.tensor(1.0))
    assert "scalar" in lowered.fallbacks[0].reason


def test_symbolic_counts() -> None:
    x = TensorType((3, symbol("n")), DType.FLOAT32)
    values, indices = Sort(1, count=symbol("k")).infer([x])
    assert (str(values), str(indices)) == ("float32[3,k]", "int64[3,k]")


def test_inputs_that_do_not_fit_are_refused() -> None:
    x = TensorType((2, 3), DType.FLOAT32)
    with pytest.raises(ValueError, match="the first 4 of 3"):
        Sort(1, count=4).infer([x])
    with pytest.raises(ValueError, match="along axis 2"):
        Sort(2).infer([x])
