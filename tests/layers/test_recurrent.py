import pytest
import torch
from layer_testing import check_rule, lower_model
from torch import nn

from torch2rt.layers.recurrent import Recurrent
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

# Export sees the list of flat weights that these modules keep beside their parameters.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attribute.*_flat_weights")

CASES = {
    "lstm": nn.LSTM(3, 4, batch_first=True),
    "lstm of two layers": nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
    "lstm without biases": nn.LSTM(3, 4, bias=False, batch_first=True),
    "gru": nn.GRU(3, 4, bidirectional=True, batch_first=True),
    "rnn": nn.RNN(3, 4, batch_first=True),
    "rnn with relu": nn.RNN(3, 4, num_layers=2, nonlinearity="relu", batch_first=True),
}


class WithState(nn.Module):
    """A recurrent network whose states are inputs, with axis 0 the batch everywhere."""

    def __init__(self, network: nn.RNNBase) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = [state.transpose(0, 1) for state in states]
        y, last = self.network(x, tuple(first) if len(first) == 2 else first[0])
        return (y, *last) if len(first) == 2 else (y, last)


def states_of(network: nn.RNNBase) -> list[torch.Tensor]:
    count = network.num_layers * (2 if network.bidirectional else 1)
    return [torch.randn(2, count, 4) for _ in range(2 if network.mode == "LSTM" else 1)]


@pytest.mark.parametrize("name", CASES)
def test_rule_matches_eager(name: str) -> None:
    network = CASES[name]
    check_rule(WithState(network), torch.randn(2, 5, 3), *states_of(network))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_time_first(name: str) -> None:
    network = {"lstm": nn.LSTM(3, 4), "gru": nn.GRU(3, 4)}[name]
    states = [torch.randn(1, 2, 4) for _ in range(2 if name == "lstm" else 1)]

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor, *states: torch.Tensor) -> torch.Tensor:
            return self.network(x, tuple(states) if len(states) == 2 else states[0])[0]

    check_rule(TimeFirst(), torch.randn(5, 2, 3), *states, dynamic=False)


def test_projections_fall_back() -> None:
    network = nn.LSTM(3, 4, proj_size=2, batch_first=True)
    states = [torch.randn(2, 1, 2), torch.randn(2, 1, 4)]
    lowered = lower_model(WithState(network), torch.randn(2, 5, 3), *states)
    assert any("projections" in node.reason for node in lowered.fallbacks)


def test_inputs_that_do_not_fit_are_refused() -> None:
    def types(*shapes: tuple[int, ...]) -> list[TensorType]:
        return [TensorType(shape, DType.FLOAT32) for shape in shapes]

    kind = Recurrent("gru", has_biases=False)
    fitting = types((2, 5, 3), (1, 5, 4), (12, 3), (12, 4))
    assert [str(t) for t in kind.infer(fitting)] == ["float32[2,5,4]", "float32[1,5,4]"]
    assert kind.flops(fitting, kind.infer(fitting)) == 2 * (12 * 3 + 12 * 4) * 10
    with pytest.raises(ValueError, match="with 1 weights"):
        kind.infer(fitting[:-1])
    with pytest.raises(ValueError, match="3 x 4 rows"):
        kind.infer([*fitting[:-1], *types((16, 4))])
    with pytest.raises(ValueError, match="unknown recurrent network"):
        Recurrent("qrnn")
