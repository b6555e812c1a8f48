import pytest
import torch
from layer_testing import check_rule
from torch import nn


class LstmStep(nn.LSTMCell):
    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().forward(x, states)


@pytest.mark.parametrize("bias", [True, False])
def test_lstm_cell(bias: bool) -> None:
    check_rule(LstmStep(3, 4, bias), torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4))


@pytest.mark.parametrize(
    "cell", [nn.GRUCell(3, 4), nn.GRUCell(3, 4, bias=False), nn.RNNCell(3, 4),
             nn.RNNCell(3, 4, nonlinearity="relu")],
)
def test_cells_with_one_state(cell: nn.Module) -> None:
    check_rule(cell, torch.randn(2, 3), torch.randn(2, 4))
