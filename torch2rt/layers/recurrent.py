"""Recurrent networks: LSTM, GRU and plain RNN, several layers and both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class Recurrent(LayerKind):
    """The recurrent network ``mode`` (lstm, gru, rnn_tanh, rnn_relu) over a sequence.

    Inputs: x [t, b, f], or [b, t, f] if ``is_batch_first``; the state h [l*d, b, h] with l layers
    of d directions; for an LSTM the cell state c likewise; then for each layer and direction
    w_ih [g*h, f'], w_hh [g*h, h] and, if ``has_biases``, b_ih [g*h], b_hh [g*h], gates in
    PyTorch's order (LSTM i f g o, GRU r z n). Outputs: y [t, b, d*h] (or batch first), the last
    states h and, for an LSTM, c. Source: torch.nn.LSTM, GRU, RNN; ONNX LSTM, GRU, RNN.
    """

    name: ClassVar[str] = "recurrent"
    mode: str
    layer_count: int = 1
    is_bidirectional: bool = False
    is_batch_first: bool = False
    has_biases: bool = True

    def __post_init__(self) -> None:
        if self.mode not in _GATES:
            raise ValueError(f"unknown recurrent network {self.mode!r}, expected {list(_GATES)}")

    @property
    def gate_count(self) -> int:
        """Blocks of h rows in each weight."""
        return _GATES[self.mode]

    @property
    def state_count(self) -> int:
        """Number of states: h, and c of an LSTM."""
        return 2 if self.mode == "lstm" else 1

    @property
    def direction_count(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.is_bidirectional else 1

    @property
    def weights_per_direction(self) -> int:
        """Weights and biases of one layer in one direction."""
        return 4 if self.has_biases else 2

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Y, h and, for an LSTM, c."""
        x, *rest = inputs
        states, weights = rest[: self.state_count], rest[self.state_count :]
        expected = self.layer_count * self.direction_count * self.weights_per_direction
        if x.rank != 3 or len(weights) != expected:
            raise ValueError(
                f"{self.mode} of {x} with {len(weights)} weights, expected three axes and "
                f"{expected} weights"
            )
        rows, hidden = weights[1].shape
        if rows != hidden * self.gate_count:
            raise ValueError(f"{self.mode}: recurrent weight {weights[1]} has not "
                             f"{self.gate_count} x {hidden} rows")
        y = TensorType((*x.shape[:2], hidden * self.direction_count), x.dtype)
        return (y, *(TensorType(state.shape, x.dtype) for state in states))

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The op of torch."""
        x, *rest = inputs
        states, weights = rest[: self.state_count], rest[self.state_count :]
        function = getattr(torch.ops.aten, self.mode).input
        result: tuple[TorchTensor, ...] = function(
            x, states if self.mode == "lstm" else states[0], weights, self.has_biases,
            self.layer_count, 0.0, False, self.is_bidirectional, self.is_batch_first,
        )
        return result

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Two per multiply-add of the gate products, at every step."""
        x, *rest = inputs
        weights = [w for w in rest[self.state_count :] if w.rank == 2]
        steps = x.shape[0] * x.shape[1]
        taps = sum(int(w.element_count) for w in weights)
        return 2 * taps * int(steps)


@rule("aten.lstm.input")
def lower_lstm(
    lowering: Lowering, input: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor],
    has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """LSTM without projection."""
    _check(params, has_biases, num_layers, dropout, train, bidirectional)
    kind = Recurrent("lstm", num_layers, bidirectional, batch_first, has_biases)
    return lowering.add_many(kind, input, *hx, *params)


@rule("aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
def lower_rnn(
    lowering: Lowering, input: Tensor, hx: Tensor, params: Sequence[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> list[Tensor]:
    """GRU and plain RNN; the mode is in the op's name."""
    _check(params, has_biases, num_layers, dropout, train, bidirectional)
    mode = lowering.origin.op.split(".")[1]
    kind = Recurrent(mode, num_layers, bidirectional, batch_first, has_biases)
    return lowering.add_many(kind, input, hx, *params)


def _check(
    params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool,
) -> None:
    if train and dropout:
        raise Unsupported(f"dropout={dropout} in training mode")
    per_direction: Dim = 4 if has_biases else 2
    if len(params) != num_layers * (2 if bidirectional else 1) * per_direction:
        raise Unsupported("a recurrent network with projections (proj_size)")
