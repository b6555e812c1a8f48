"""What gradients tell of errors in tensors, against the outputs that the errors do make."""

import pytest
import torch
from torch import nn

from torch2rt.backends.reference.executor import run_network
from torch2rt.capture.export import capture
from torch2rt.lower import lower
from torch2rt.passes.pipeline import optimize
from torch2rt.quantize.gradients import NoGradientsError, sense


def network_of(model, x):
    torch.manual_seed(0)
    network = lower(capture(model.eval(), (x,), {})).network
    optimize(network, merge_siblings=False)
    return network, {next(iter(network.inputs)): x}


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    layers = (nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 9))
    return network_of(nn.Sequential(*layers), torch.randn(10, 12))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_noise_of_an_error_is_what_it_does_to_the_outputs(made, mode):
    network, inputs = made
    (name, x), = inputs.items()
    error = 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    with mode():
        noise = sum(
            sensed.noise({name: error[4 * number : 4 * number + 4]})
            for number, sensed in enumerate(sense(network, inputs, {name}, sums=400))
        )
    (want,), (got,) = (
        run_network(network, {name: value}, dtype=torch.float64).values()
        for value in (x.double(), (x + error).double())
    )
    exact = float(((got - want).square().sum(1) / want.square().sum(1)).sum())
    assert noise == pytest.approx(exact, rel=0.15)


def test_errors_of_several_tensors_add_up_before_they_are_squared(made):
    network, inputs = made
    names = [layer.output.name for layer in network.layers][:2]
    for sensed in sense(network, inputs, set(names)):
        parts = {name: 1e-3 * torch.ones_like(sensed.values[name]) for name in names}
        (gradients,) = sensed.gradients
        moved = sum((gradients[name] * parts[name]).sum(1) for name in names)
        assert sensed.noise(parts) == pytest.approx(float(moved.square().sum()), rel=1e-4)


def test_outputs_of_integers_have_no_gradients():
    class Largest(nn.Module):
        def forward(self, x):
            return x.tanh().argmax(1)

    network, inputs = network_of(Largest(), torch.randn(4, 5))
    (name,) = inputs
    for sensed in sense(network, inputs, {name}):
        assert sensed.gradients == []
        assert sensed.noise({name: torch.ones(4, 5)}) == 0.0


def test_what_cannot_be_differentiated_is_told():
    class Rounding(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no derivative")

    network, inputs = network_of(nn.Sequential(nn.Linear(5, 4)), torch.randn(4, 5))
    (name,) = inputs
    inputs = {name: Rounding.apply(inputs[name].requires_grad_())}
    sensed = sense(network, inputs, {name})
    assert next(sensed).gradients  # a copy of the inputs is what is followed
    layer = network.layers[-1]
    object.__setattr__(layer, "kind", _Broken(layer.kind))
    with pytest.raises(NoGradientsError, match="no derivative"):
        next(sense(network, inputs, {name}))


class _Broken:
    def __init__(self, kind):
        self._kind = kind

    def __getattr__(self, name):
        return getattr(self._kind, name)

    def reference(self, inputs):
        raise RuntimeError("no derivative")
