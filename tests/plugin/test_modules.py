"""Module classes as plugins: one layer, weights of the model, made again from a configuration."""

from __future__ import annotations

import pytest
import torch
from cuda_testing import check_cuda_tactic
from torch import nn

import torch2rt
from torch2rt.capture.export import capture
from torch2rt.errors import PluginError
from torch2rt.layers.specialize import specialize_kind
from torch2rt.lower import lower
from torch2rt.plugin import CudaKernel, ceil_div, count


class Gate(nn.Module):
    """Control flow, keywords, a dict of results, buffers: nothing of it is traced."""

    def __init__(self, width: int, scale: float = 2.0, **options: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(0.5))
        self.scale = scale
        self.twice = options.get("twice", False)
        self.register_buffer("table", torch.arange(width, dtype=torch.float32))

    def forward(self, x, *, shift: float = 0.0):
        y = self.inner(x) * self.scale + self.table + shift
        y = y * 2 if self.twice else y
        return {"y": y, "sums": (y.sum(-1), 3)}


class Model(nn.Module):
    def __init__(self, *gates: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.gates = nn.ModuleList(gates)

    def forward(self, x):
        x = self.first(x)
        for gate in self.gates:
            found = gate(x, shift=0.5)
            x = found["y"] + found["sums"][0][:, None] * found["sums"][1]
        return torch.relu(x)


@pytest.fixture
def gate_class():
    """A class of its own for each test: registering changes ``__init__``."""
    cls = type("Gate", (Gate,), {"__init__": Gate.__init__, "__module__": __name__})
    return torch2rt.plugin("t_modules::gate")(cls)


def network_of(model):
    return lower(capture(model.eval(), (torch.randn(3, 4),), {})).network


def test_a_module_is_one_layer_whose_weights_are_the_models(gate_class, tmp_path):
    model = Model(gate_class(4), gate_class(4, 3.0, twice=True)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = torch.randn(3, 4)
    rt = torch2rt.convert(model, x, timing_cache=tmp_path / "t", progress=False)
    for value in (x, torch.randn(5, 4)):
        torch.testing.assert_close(rt(value), model(value).detach(), rtol=1e-4, atol=1e-4)
    layers = [layer for layer in rt.engine.network.layers if layer.kind.name == "plugin"]
    assert [layer.name for layer in layers] == ["gates.0", "gates.1"]
    assert "gates.0.inner.0.weight" in [tensor.name for tensor in layers[0].inputs]
    assert len(layers[0].outputs) == 2
    assert "forward" not in vars(model.gates[0])


def test_a_module_is_looked_into_when_its_class_is_not_registered(tmp_path):
    assert not any(layer.kind.name == "plugin" for layer in network_of(Model(Gate(4))).layers)


def test_a_subclass_is_another_class(gate_class):
    class Other(gate_class):
        pass

    assert not any(layer.kind.name == "plugin" for layer in network_of(Model(Other(4))).layers)


def test_the_decorator_without_arguments_names_it_after_the_class():
    cls = torch2rt.plugin(type("Plain", (Gate,), {"__module__": __name__}))
    (layer,) = (y for y in network_of(Model(cls(4))).layers if y.kind.name == "plugin")
    assert layer.kind.plugin.endswith("::Plain")


def test_a_changed_attribute_counts(gate_class, tmp_path):
    model = Model(gate_class(4)).eval()
    model.gates[0].scale = 7.0
    x = torch.randn(3, 4)
    rt = torch2rt.convert(model, x, timing_cache=tmp_path / "t", progress=False)
    torch.testing.assert_close(rt(x), model(x).detach(), rtol=1e-4, atol=1e-3)


def test_a_module_made_before_its_class_was_registered(tmp_path):
    class Power(nn.Module):
        def __init__(self, exponent, bias=1.0):
            super().__init__()
            self.exponent, self.bias = exponent, bias

        def forward(self, x):
            return x**self.exponent + self.bias

    model = nn.Sequential(nn.Linear(4, 4), Power(2)).eval()
    torch2rt.plugin(Power)
    (layer,) = (y for y in network_of(model).layers if y.kind.name == "plugin")
    assert layer.kind.definition().attributes is not None
    x = torch.randn(3, 4)
    rt = torch2rt.convert(model, x, timing_cache=tmp_path / "t", progress=False)
    torch.testing.assert_close(rt(x), model(x).detach(), rtol=1e-4, atol=1e-4)


def test_a_module_that_its_configuration_does_not_make_is_an_error(gate_class):
    model = Model(gate_class(4))
    model.gates[0].inner[0] = nn.Linear(4, 4, bias=False)
    with pytest.raises(PluginError, match=r"'t_modules::gate' at gates.0: a module made from its "
                       r"configuration differs: shapes of weights. Make __init__ take plain"):
        network_of(model)
    model = Model(gate_class(4))
    model.gates[0].inner[2].p = 0.25
    with pytest.raises(PluginError, match=r"differs: inner\.2\.p is 0\.25"):
        network_of(model)
    model.gates[0].inner.append(nn.ReLU())
    with pytest.raises(PluginError, match=r"differs: sub-modules \['inner.3'\]"):
        network_of(model)

    class Takes(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, shift):
            return {"y": self.inner(x), "sums": (x.sum(-1), 1)}

    torch2rt.plugin(Takes)
    with pytest.raises(PluginError, match="its configuration is not plain values"):
        network_of(Model(Takes(nn.Linear(4, 4))))


SOURCE = r"""
extern "C" __global__ void scaled(const float* x, const float* w, float* y, int n, float factor,
                                  int squares) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = (squares ? x[i] * x[i] : x[i]) * w[i % 4] * factor;
}"""


def test_a_kernel_gets_weights_and_the_numbers_of_the_configuration(cuda_device):
    class Scaled(nn.Module):
        def __init__(self, factor, mode="plain", squares=False):
            super().__init__()
            self.factor, self.squares = factor, squares
            self.weight = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return (x * x if self.squares else x) * self.weight * self.factor

    torch2rt.plugin("t_modules::scaled", cuda=CudaKernel(
        SOURCE, "scaled", grid=lambda s, a: ceil_div(count(s.outputs[0]), 64), block=64
    ))(Scaled)
    network = network_of(nn.Sequential(nn.Linear(4, 4), Scaled(1.5, squares=True)))
    (layer,) = (y for y in network.layers if y.kind.name == "plugin")
    assert [tensor.name for tensor in layer.inputs[1:]] == ["1.weight"]
    kind = specialize_kind(layer.kind, {name: 3 for name in network.symbols})
    check_cuda_tactic(
        "plugin.cuda.first", kind, [torch.randn(3, 4), torch.randn(4)], constants=(1,)
    )
