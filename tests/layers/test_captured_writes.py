"""Assignments to parts of tensors, which capture turns into functional ops."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.capture.export import capture
from torch2rt.lower import lower


class Writes(nn.Module):
    """Applies one assignment to a copy of its input."""

    def __init__(self, write: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1
        self.write(y)
        return y + 1


def slice_(y: Tensor) -> None:
    y[:, 1:3] = 2.0


def strided(y: Tensor) -> None:
    y[:, ::2] = y[:, 1::2] * 2


def element(y: Tensor) -> None:
    y[:, -1] = y[:, 0]


def columns(y: Tensor) -> None:
    y[:, torch.tensor([2, 0])] = 5.0


def mask(y: Tensor) -> None:
    y[y > 0] = -1.0


def masked_fill(y: Tensor) -> None:
    y.masked_fill_(y > 0, -1.0)


def nested(y: Tensor) -> None:
    y[1:, 2:].copy_(y[:-1, :2])


def added(y: Tensor) -> None:
    y[:, 1:] += 3


def clamped(y: Tensor) -> None:
    y.clamp_(-0.5, 0.5).mul_(2)


def filled(y: Tensor) -> None:
    y[0].zero_()
    y[1].fill_(4.0)


WRITES = [slice_, strided, element, columns, mask, masked_fill, nested, added, clamped, filled]


@pytest.mark.parametrize("write", WRITES)
def test_assignments(write: Callable[[Tensor], None]) -> None:
    model = Writes(write)
    x = torch.randn(4, 4)
    lowered = lower(capture(model, (x,)))
    assert not lowered.fallbacks, "\n".join(map(str, lowered.fallbacks))
    (name,) = lowered.network.inputs
    (got,) = run_network(lowered.network, {name: x}).values()
    torch.testing.assert_close(got, model(x))
