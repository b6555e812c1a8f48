import pytest
import torch
from needs import needs_onednn

from torch2rt.backends.cpu.onednn import (
    Algorithm,
    Arg,
    Cell,
    DataType,
    Direction,
    MemoryDesc,
    gru,
    lbr_gru,
    lstm,
    vanilla_rnn,
)

pytestmark = needs_onednn

STEPS, BATCH, WIDTH, HIDDEN = 5, 3, 6, 8


def gates(weight, count, order):
    """torch's (gates * o, i) as oneDNN's (1, 1, i, gates, o), gates taken in `order`."""
    split = weight.unflatten(0, (count, -1))[list(order)]
    return split.permute(2, 0, 1)[None, None]


def bias_gates(bias, count, order):
    return bias.unflatten(0, (count, -1))[list(order)][None, None]


def directions(module, make):
    suffixes = ["", "_reverse"] if module.bidirectional else [""]
    return torch.cat([make(suffix) for suffix in suffixes], 1)


def parameters(module, count, order):
    """weights_layer, weights_iter and summed bias over the directions of a one-layer module."""
    named = dict(module.named_parameters())
    w_layer = directions(module, lambda s: gates(named[f"weight_ih_l0{s}"], count, order))
    w_iter = directions(module, lambda s: gates(named[f"weight_hh_l0{s}"], count, order))
    bias = directions(
        module,
        lambda s: bias_gates(named[f"bias_ih_l0{s}"] + named[f"bias_hh_l0{s}"], count, order),
    )
    return [tensor.detach().contiguous() for tensor in (w_layer, w_iter, bias)]


def cell_of(x, w_layer, w_iter, bias, expected, hidden=None):
    plain = lambda tensor: MemoryDesc.plain(tuple(tensor.shape), DataType.f32)  # noqa: E731
    state = None if hidden is None else plain(hidden)
    return Cell(
        src=plain(x),
        weights_layer=MemoryDesc.any(tuple(w_layer.shape), DataType.f32),
        weights_iter=MemoryDesc.any(tuple(w_iter.shape), DataType.f32),
        bias=plain(bias),
        dst=plain(expected),
        src_iter=state,
        dst_iter=state,
    )


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_equals_torch(execute, assert_near, bidirectional):
    module = torch.nn.LSTM(WIDTH, HIDDEN, bidirectional=bidirectional).eval()
    x = torch.randn(STEPS, BATCH, WIDTH)
    count = 2 if bidirectional else 1
    h, c = torch.randn(count, BATCH, HIDDEN), torch.randn(count, BATCH, HIDDEN)
    with torch.no_grad():
        expected, (last_h, last_c) = module(x, (h, c))
    w_layer, w_iter, bias = parameters(module, 4, (0, 1, 2, 3))
    direction = Direction.bidirectional_concat if bidirectional else Direction.left_to_right
    state = MemoryDesc.plain((1, *h.shape), DataType.f32)
    desc = lstm(
        cell_of(x, w_layer, w_iter, bias, expected, h[None]),
        direction,
        src_iter_c=state,
        dst_iter_c=state,
    )
    tensors = {
        Arg.src: x,
        Arg.src_1: h[None],
        Arg.src_2: c[None],
        Arg.weights: w_layer,
        Arg.weights_1: w_iter,
        Arg.bias: bias,
    }
    assert_near(execute(desc, tensors), expected)
    assert_near(execute(desc, tensors, result=Arg.dst_1), last_h[None])
    assert_near(execute(desc, tensors, result=Arg.dst_2), last_c[None])


def test_lbr_gru_equals_torch(execute, assert_near):
    module = torch.nn.GRU(WIDTH, HIDDEN).eval()
    x, h = torch.randn(STEPS, BATCH, WIDTH), torch.randn(1, BATCH, HIDDEN)
    with torch.no_grad():
        expected, _ = module(x, h)
    order = (1, 0, 2)  # torch: reset, update, new; oneDNN: update, reset, new
    w_layer, w_iter, summed = parameters(module, 3, order)
    apart = module.bias_ih_l0.detach().unflatten(0, (3, -1))[2]
    hidden = module.bias_hh_l0.detach().unflatten(0, (3, -1))[2]
    bias = torch.stack([summed[0, 0, 0], summed[0, 0, 1], apart, hidden])[None, None]
    desc = lbr_gru(cell_of(x, w_layer, w_iter, bias, expected, h[None]), Direction.left_to_right)
    tensors = {
        Arg.src: x,
        Arg.src_1: h[None],
        Arg.weights: w_layer,
        Arg.weights_1: w_iter,
        Arg.bias: bias,
    }
    assert_near(execute(desc, tensors), expected)


def gru_reference(x, w_layer, w_iter, bias):
    """h' = u h + (1 - u) tanh(Wx + U(r h) + b), the reset gate before the product."""
    w, u, b = (tensor[0, 0].double() for tensor in (w_layer, w_iter, bias))
    h = torch.zeros(x.shape[1], HIDDEN, dtype=torch.float64)
    steps = []
    for step in x.double():
        update = torch.sigmoid(step @ w[:, 0] + h @ u[:, 0] + b[0])
        reset = torch.sigmoid(step @ w[:, 1] + h @ u[:, 1] + b[1])
        new = torch.tanh(step @ w[:, 2] + (reset * h) @ u[:, 2] + b[2])
        h = update * h + (1 - update) * new
        steps.append(h)
    return torch.stack(steps)


def test_gru_equals_its_formula(execute, assert_near):
    x, bias = torch.randn(STEPS, BATCH, WIDTH), torch.randn(1, 1, 3, HIDDEN)
    w_layer, w_iter = torch.randn(1, 1, WIDTH, 3, HIDDEN), torch.randn(1, 1, HIDDEN, 3, HIDDEN)
    expected = gru_reference(x, w_layer, w_iter, bias)
    desc = gru(cell_of(x, w_layer, w_iter, bias, expected.float()), Direction.left_to_right)
    tensors = {Arg.src: x, Arg.weights: w_layer, Arg.weights_1: w_iter, Arg.bias: bias}
    assert_near(execute(desc, tensors), expected)


@pytest.mark.parametrize(
    ("nonlinearity", "algorithm"), [("tanh", Algorithm.tanh), ("relu", Algorithm.relu)]
)
def test_vanilla_rnn_equals_torch(execute, assert_near, nonlinearity, algorithm):
    module = torch.nn.RNN(WIDTH, HIDDEN, nonlinearity=nonlinearity).eval()
    x = torch.randn(STEPS, BATCH, WIDTH)
    with torch.no_grad():
        expected, _ = module(x)
    w_layer, w_iter, bias = parameters(module, 1, (0,))
    desc = vanilla_rnn(
        cell_of(x, w_layer, w_iter, bias, expected), Direction.left_to_right, algorithm
    )
    tensors = {Arg.src: x, Arg.weights: w_layer, Arg.weights_1: w_iter, Arg.bias: bias}
    assert_near(execute(desc, tensors), expected)
