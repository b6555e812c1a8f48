"""Recurrent layers and group norm against the reference."""

import pytest
import torch
from tactic_testing import check_tactic

from torch2rt.layers.group_norm import GroupNorm
from torch2rt.layers.recurrent import Recurrent

FLOATS = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize(("layers", "both", "batch_first", "biases"), [
    (1, False, False, True), (2, True, True, True), (1, True, False, False),
])
def test_recurrent(mode, layers, both, batch_first, biases, dtype):
    kind = Recurrent(mode, layers, both, batch_first, biases)
    steps, batch, features, hidden = 5, 3, 12, 16
    gates, directions = kind.gate_count * hidden, 1 + both
    x = torch.randn((batch, steps, features) if batch_first else (steps, batch, features))
    state = (layers * directions, batch, hidden)
    inputs = [x, *(torch.randn(state) for _ in range(kind.state_count))]
    first = len(inputs)
    for layer in range(layers):
        width = features if layer == 0 else hidden * directions
        for _ in range(directions):
            inputs += [torch.randn(gates, width) * 0.2, torch.randn(gates, hidden) * 0.2]
            inputs += [torch.randn(gates) * 0.2 for _ in range(2 * biases)]
    inputs = [tensor.to(dtype) for tensor in inputs]
    constants = list(range(first, len(inputs)))
    check_tactic("recurrent.onednn.layers", kind, inputs, constants=constants)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(2, 24, 5, 7), (2, 24), (1, 24, 9), (2, 24, 3, 4, 5)])
@pytest.mark.parametrize("groups", [1, 4, 24])
def test_group_norm(shape, groups, dtype):
    if len(shape) == 2 and groups == 24:
        groups = 12  # one element per group would always give zero
    x, weight, bias, more = (torch.randn(s).to(dtype) for s in (shape, (24,), (24,), shape))
    name = "group_norm.onednn.rows"
    check_tactic(name, GroupNorm(groups, 1e-5), [x])
    kind = GroupNorm(groups, 1e-5, True, True)
    check_tactic(name, kind, [x, weight, bias], constants=[1, 2])
    check_tactic(name, kind, [x, weight, bias, more], "silu(add(i0,i1))", constants=[1, 2])
    check_tactic(name, kind, [x, weight, bias], "silu(i0)")
