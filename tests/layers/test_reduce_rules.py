import pytest
import torch
from layer_testing import check_rule, lower_model

CASES = {
    "var": lambda x: x.var(),
    "var over axes": lambda x: x.var((1, 2), keepdim=True),
    "var biased": lambda x: x.var(-1, unbiased=False),
    "var correction": lambda x: x.var((1, 2), correction=2),
    "std": lambda x: x.std(1),
    "std correction": lambda x: torch.std(x, 1, correction=0, keepdim=True),
    "var and mean": lambda x: torch.var_mean(x, 1),
    "std and mean": lambda x: torch.std_mean(x, (1, 2), correction=0),
    "norm": lambda x: torch.norm(x),
    "norm of 1": lambda x: x.norm(p=1, dim=1),
    "norm of 3": lambda x: torch.linalg.vector_norm(x, 3, (1, 2), keepdim=True),
    "norm of 0": lambda x: torch.linalg.vector_norm(x.relu(), 0, 1),
    "norm of inf": lambda x: torch.linalg.vector_norm(x, torch.inf, 1),
    "norm of -inf": lambda x: torch.linalg.vector_norm(x, -torch.inf, 1),
    "linalg norm": lambda x: torch.linalg.norm(x, dim=1),
    "logsumexp": lambda x: x.logsumexp(1),
    "logsumexp over axes": lambda x: torch.logsumexp(x, (1, 2), keepdim=True),
    "normalize": lambda x: torch.nn.functional.normalize(x, dim=1),
    "cosine": lambda x: torch.nn.functional.cosine_similarity(x, x + 1, dim=-1),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    dynamic = name != "var"  # its count would be symbolic
    check_rule(CASES[name], torch.randn(2, 3, 4), dynamic=dynamic)


def test_unbiased_variance_over_a_symbolic_count_falls_back() -> None:
    lowered = lower_model(lambda x: x.var(0), torch.randn(3, 2), dynamic=True)
    assert "symbolic count" in lowered.fallbacks[0].reason


@pytest.mark.filterwarnings("ignore:var.* degrees of freedom")
def test_variance_of_one_value_is_nan() -> None:
    check_rule(lambda x: x.var(1), torch.randn(2, 1))


def test_logsumexp_of_infinities_and_large_values() -> None:
    rows = [[-torch.inf, -torch.inf], [torch.inf, 0.0], [1000.0, 1000.0]]
    check_rule(lambda x: x.logsumexp(1), torch.tensor(rows))


def test_matrix_norm_falls_back() -> None:
    lowered = lower_model(lambda x: torch.linalg.norm(x, 1, (0, 1)), torch.randn(2, 3))
    assert "matrix norm" in lowered.fallbacks[0].reason
