"""Activations against eager, at both sides of every kink."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from layer_testing import as_module, check_rule, lower_model, run_and_compare
from torch import Tensor, nn

ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    F.relu6, F.hardtanh, lambda x: F.hardtanh(x, -0.5, 2.0), F.gelu,
    lambda x: F.gelu(x, approximate="tanh"), F.leaky_relu, lambda x: F.leaky_relu(x, 0.3),
    F.rrelu, F.elu, lambda x: F.elu(x, 0.7), F.selu, F.celu, lambda x: F.celu(x, 1.7),
    F.softplus, lambda x: F.softplus(x, 3.0), lambda x: F.softplus(x, 2.0, 1.0), F.logsigmoid,
    lambda x: F.threshold(x, 0.4, -2.0), F.hardshrink, F.softshrink,
    lambda x: F.softshrink(x, 0.2), F.tanhshrink, F.softsign, F.silu, F.mish, F.hardswish,
    F.hardsigmoid, lambda x: torch.logit(x, eps=0.1), lambda x: F.glu(x, 1),
    lambda x: F.silu(x[:, :2]) * x[:, 2:],
]


def test_activations() -> None:
    x = torch.cat([torch.linspace(-30, 30, 32), torch.linspace(-4, 4, 32)]).reshape(4, 4, 4)
    check_rule(lambda x: tuple(f(x) for f in ACTIVATIONS), x)


def test_activations_of_short_floats() -> None:
    def model(x: Tensor) -> Tensor:
        return F.hardtanh(x.half()) + F.gelu(x.half())

    x = torch.randn(3, 4)
    run_and_compare(lower_model(model, x), as_module(model), [x], 2e-3)


@pytest.mark.parametrize(
    ("weights", "shape"), [(1, (3, 4, 5)), (4, (3, 4, 5, 2)), (4, (3, 4)), (1, (3,))]
)
def test_prelu(weights: int, shape: tuple[int, ...]) -> None:
    module = nn.PReLU(weights)
    nn.init.normal_(module.weight)
    check_rule(module, torch.randn(*shape), kinds={"pointwise"})


def test_in_place_activations_of_modules() -> None:
    check_rule(nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(), nn.Hardswish()), torch.randn(3, 4))
