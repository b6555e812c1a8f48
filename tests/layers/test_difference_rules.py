import pytest
import torch
from layer_testing import check_rule, lower_model

CASES = {
    "last axis": lambda x: x.diff(),
    "first axis": lambda x: x.diff(dim=0),
    "twice": lambda x: x.diff(n=2, dim=1),
    "not at all": lambda x: x.diff(n=0) + 1,
    "of booleans": lambda x: (x > 0).diff(),
    "with ends": lambda x: x.diff(dim=1, prepend=x[:, :1] * 2, append=x[:, -2:]),
    "of integers": lambda x: x.long().diff(dim=1),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    check_rule(CASES[name], torch.randn(3, 4, 5) * 3)


def test_several_dtypes_fall_back() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return x.diff(prepend=x.double())

    assert "several dtypes" in lower_model(model, torch.randn(2, 3)).fallbacks[0].reason
