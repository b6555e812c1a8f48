"""Rules of single recurrent steps (nn.LSTMCell, nn.GRUCell, nn.RNNCell): products and gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch2rt import expression as ex
from torch2rt.layers.matmul import linear
from torch2rt.layers.rules import rule
from torch2rt.layers.slice import slice_axis
from torch2rt.network.dim import floordiv
from torch2rt.network.tensor import Tensor

if TYPE_CHECKING:
    from torch2rt.lower import Lowering


@rule("aten.lstm_cell.default")
def lower_lstm_cell(
    lowering: Lowering, input: Tensor, hx: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None, b_hh: Tensor | None,
) -> list[Tensor]:
    """Next c' = s(f) c + s(i) tanh(g), h' = s(o) tanh(c'), with s the sigmoid and gates i f g o."""
    h, c = hx
    dtype = input.dtype
    gates = lowering.pointwise(
        "add", linear(lowering, input, w_ih, b_ih), linear(lowering, h, w_hh, b_hh), dtype=dtype
    )
    i, f, g, o = _gates(lowering, gates, 4)
    kept = ex.apply("mul", ex.apply("sigmoid", ex.Input(0)), ex.Input(1))
    added = ex.apply(
        "mul", ex.apply("sigmoid", ex.Input(2)), ex.apply("tanh", ex.Input(3))
    )
    cell = lowering.expression(ex.apply("add", kept, added), f, c, i, g, dtype=dtype)
    state = ex.apply("mul", ex.apply("sigmoid", ex.Input(0)), ex.apply("tanh", ex.Input(1)))
    return [lowering.expression(state, o, cell, dtype=dtype), cell]


@rule("aten.gru_cell.default")
def lower_gru_cell(
    lowering: Lowering, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None, b_hh: Tensor | None,
) -> Tensor:
    """Next h' = n + s(z) (h - n) with n = tanh(x_n + s(r) h_n), s the sigmoid and gates r z n."""
    dtype = input.dtype
    of_x = _gates(lowering, linear(lowering, input, w_ih, b_ih), 3)
    of_h = _gates(lowering, linear(lowering, hx, w_hh, b_hh), 3)
    gate = ex.apply("sigmoid", ex.apply("add", ex.Input(0), ex.Input(1)))
    reset, update = (lowering.expression(gate, of_x[k], of_h[k], dtype=dtype) for k in (0, 1))
    candidate = ex.apply(
        "tanh", ex.apply("add", ex.Input(0), ex.apply("mul", ex.Input(1), ex.Input(2)))
    )
    new = lowering.expression(candidate, of_x[2], reset, of_h[2], dtype=dtype)
    difference = ex.apply("sub", ex.Input(2), ex.Input(0))
    state = ex.apply("add", ex.Input(0), ex.apply("mul", ex.Input(1), difference))
    return lowering.expression(state, new, update, hx, dtype=dtype)


@rule("aten.rnn_tanh_cell.default")
def lower_rnn_tanh_cell(
    lowering: Lowering, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None, b_hh: Tensor | None,
) -> Tensor:
    """Next h' = tanh(w_ih x + w_hh h)."""
    return _rnn_cell(lowering, "tanh", input, hx, [w_ih, w_hh], [b_ih, b_hh])


@rule("aten.rnn_relu_cell.default")
def lower_rnn_relu_cell(
    lowering: Lowering, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None, b_hh: Tensor | None,
) -> Tensor:
    """Next h' = relu(w_ih x + w_hh h)."""
    return _rnn_cell(lowering, "relu", input, hx, [w_ih, w_hh], [b_ih, b_hh])


def _rnn_cell(
    lowering: Lowering, activation: str, x: Tensor, h: Tensor, weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> Tensor:
    parts = [
        linear(lowering, value, weight, bias)
        for value, weight, bias in zip((x, h), weights, biases, strict=True)
    ]
    total = ex.apply(activation, ex.apply("add", ex.Input(0), ex.Input(1)))
    return lowering.expression(total, *parts, dtype=x.dtype)


def _gates(lowering: Lowering, blocks: Tensor, count: int) -> list[Tensor]:
    """Equal blocks of the last axis."""
    axis = blocks.rank - 1
    size = floordiv(blocks.shape[axis], count)
    return [slice_axis(lowering, blocks, axis, size * index, size) for index in range(count)]
