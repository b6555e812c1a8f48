"""Python code of plugins on a GPU, with numpy in CuPy's place: which memory it is handed, when."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from cuda_testing import BlobWeights, cuda_spec, emulated
from torch import nn

import torch2rt
from torch2rt.backends.backend import find_tactic
from torch2rt.backends.buffer import Buffer, address_of, aligned_bytes, array_at
from torch2rt.backends.cuda import plugin_calls
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.backends.cuda.launch import cuda_call
from torch2rt.capture.export import capture
from torch2rt.errors import PluginError
from torch2rt.layers.plugin import Plugin
from torch2rt.layers.specialize import specialize_kind
from torch2rt.lower import lower
from torch2rt.torch_values import constant_from_torch

X, W = torch.randn(3, 4), torch.randn(4)


@pytest.fixture(autouse=True)
def numpy_for_cupy(monkeypatch):
    monkeypatch.setattr(plugin_calls, "cupy_array", array_at)


def prepare(function, tactic):
    """The prepared tactic of a model that is one call of a function, and its spec."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(W)

        def forward(self, x):
            return function(x, self.weight)

    network = lower(capture(Model().eval(), (X,), {})).network
    (layer,) = (y for y in network.layers if isinstance(y.kind, Plugin))
    kind = specialize_kind(layer.kind, {name: 3 for name in network.symbols})
    spec = cuda_spec(kind, [X, W], constants=(1,))
    weights = BlobWeights({"c1": constant_from_torch(W)[0]})
    chosen = find_tactic("torch2rt.backends.cuda.tactics", f"plugin.python.{tactic}")
    with preparing_for(emulated().device):
        assert chosen.supports(spec) is None
        return chosen.prepare(spec, weights), spec


def bound(prepared, spec, *, moves):
    """One call on memory of its own, its buffers, and the bytes behind them."""
    memory = [aligned_bytes(spec.inputs[0].size_bytes), aligned_bytes(spec.outputs[0].size_bytes)]
    buffers = [
        Buffer(operand, 0 if moves else address_of(raw), moves=moves)
        for operand, raw in zip((spec.inputs[0], spec.outputs[0]), memory, strict=True)
    ]
    scratch = aligned_bytes(prepared.workspace_bytes + 1)
    calls = prepared.bind(
        [buffers[0], Buffer(spec.inputs[1], constant="c1")], [buffers[1]], address_of(scratch),
        nullcontext(),
    )
    (call,) = map(cuda_call, calls)
    return call, buffers, memory


def arrays(inputs, outputs, attributes):
    np.multiply(inputs[0], inputs[1], out=outputs[0])


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("moves", [False, True])
def test_arrays_follow_the_buffers(moves, capturable):
    function = torch2rt.plugin("t_cupy::mul", cupy=arrays, capturable=capturable)(
        lambda x, w: x * w
    )
    prepared, spec = prepare(function, "cupy")
    call, buffers, memory = bound(prepared, spec, moves=moves)
    assert (call.is_capturable, call.moves) == (capturable, moves)
    for value in (X, -X):
        if moves:
            memory = [aligned_bytes(raw.size) for raw in memory]
            for buffer, raw in zip(buffers, memory, strict=True):
                buffer.move(address_of(raw))
        memory[0][: X.nbytes].view(np.float32)[:] = value.numpy().reshape(-1)
        assert call() == 0
        found = memory[1][: X.nbytes].view(np.float32).reshape(3, 4)
        np.testing.assert_allclose(found, (value * W).numpy(), rtol=1e-6)


def test_enqueue_is_given_a_workspace_and_the_stream():
    @torch2rt.plugin
    class Mul(torch2rt.Plugin):
        name = "t_cupy::full"

        def output_types(self, inputs):
            return inputs[:1]

        def reference(self, x, w):
            return x * w

        def workspace_bytes(self, inputs, outputs):
            return 48

        def enqueue(self, inputs, outputs, workspace, stream):
            assert workspace.nbytes == 48
            assert isinstance(stream, nullcontext)
            np.multiply(inputs[0], inputs[1], out=outputs[0])

    prepared, spec = prepare(Mul(), "first")
    call, _, memory = bound(prepared, spec, moves=False)
    memory[0][: X.nbytes].view(np.float32)[:] = X.numpy().reshape(-1)
    assert call() == 0
    assert not call.is_capturable
    found = memory[1][: X.nbytes].view(np.float32).reshape(3, 4)
    np.testing.assert_allclose(found, (X * W).numpy(), rtol=1e-6)


def test_code_that_raises_is_named():
    def broken(inputs, outputs, attributes):
        raise ValueError("no such axis")

    function = torch2rt.plugin("t_cupy::broken", cupy=broken)(lambda x, w: x * w)
    call, *_ = bound(*prepare(function, "cupy"), moves=False)
    with pytest.raises(PluginError, match=r"'t_cupy::broken': its cupy function raised ValueError: "
                       r"no such axis; it was given \[float32\[3,4\], float32\[4\]\]"):
        call()
