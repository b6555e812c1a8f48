"""Plugins that take int8: the bytes, and the scale that says what they mean."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from cuda_testing import assert_refused, check_cuda_tactic
from tactic_testing import check_tactic
from torch import Tensor, nn

import torch2rt
from torch2rt.backends.devices import open_backend
from torch2rt.backends.reference.executor import run_network
from torch2rt.build.builder import build_engine
from torch2rt.build.timing_cache import TimingCache
from torch2rt.capture.export import capture
from torch2rt.layers.plugin import Plugin
from torch2rt.layers.specialize import specialize_kind
from torch2rt.lower import lower
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType
from torch2rt.network.text import parse, text
from torch2rt.passes.pipeline import optimize
from torch2rt.plugin import CudaKernel, ceil_div, count
from torch2rt.quantize.insert import insert_quantization

SOURCE = r"""
extern "C" __global__ void leaky(const in0_t* x, const in1_t* w, out0_t* y, int n, float slope
                                 EPILOGUE_PARAMETERS) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float value = to_float(x[i]) * IN0_SCALE;
    const float result = (value > 0.0f ? value : slope * value) * to_float(w[i % 4]) * IN1_SCALE;
    y[i] = from_float<out0_t>(EPILOGUE(result, i));
}"""
SCALE = 0.03125


def arrays(inputs, outputs, attributes):
    (x, w), (y,) = inputs, outputs
    scales = attributes.get("scales", (0.0, 0.0))
    value = x * np.float32(scales[0] or 1)
    np.multiply(np.where(value > 0, value, attributes["slope"] * value), w, out=y)


@pytest.fixture
def leaky():
    @torch2rt.plugin(
        "t_int8::leaky", epilogue=True, precisions=("fp32", "int8"), cpu=arrays,
        cuda=CudaKernel(SOURCE, "leaky", grid=lambda s, a: ceil_div(count(s.outputs[0]), 256)),
    )
    def leaky(x: Tensor, w: Tensor, slope: float) -> Tensor:
        return torch.where(x > 0, x, slope * x) * w

    return leaky


class Model(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(16, 4), nn.Linear(4, 16)
        self.weight = nn.Parameter(torch.rand(4) + 0.5)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x), self.weight, 0.25) + 0.5)


def stored_kind(leaky):
    network = network_of(Model(leaky))
    (layer,) = (y for y in network.layers if isinstance(y.kind, Plugin))
    kind = specialize_kind(layer.kind, {name: 3 for name in network.symbols})
    return dataclasses.replace(kind, scales=(SCALE, 0.0))


def network_of(model):
    return lower(capture(model.eval(), (torch.randn(3, 16),), {})).network


OPERANDS = [torch.randint(-128, 128, (3, 4), dtype=torch.int8), torch.rand(4) + 0.5]


def test_the_reference_means_bytes_times_scale(leaky):
    (found,) = stored_kind(leaky).reference(OPERANDS)
    x = OPERANDS[0].float() * SCALE
    torch.testing.assert_close(found, torch.where(x > 0, x, 0.25 * x) * OPERANDS[1])


def test_kernels_and_functions_get_bytes_and_scale(leaky, cuda_device):
    kind = stored_kind(leaky)
    check_cuda_tactic("plugin.cuda.first", kind, OPERANDS)
    requantized = "to_int8(clamp(round(mul(i0,16.0)),-128.0,127.0))"
    check_cuda_tactic("plugin.cuda.first", kind, OPERANDS, requantized, out_dtype=DType.INT8)
    check_tactic("plugin.python.arrays", kind, OPERANDS)
    check_tactic("plugin.python.arrays", kind, OPERANDS, requantized, out_dtype=DType.INT8)


def test_triton_kernels_are_not_given_bytes(leaky):
    kind = dataclasses.replace(
        stored_kind(leaky),
        triton=((("s", "k", (), (), 4, 2, (1, 1, 1), (), False),),),
    )
    assert_refused("plugin.triton.first", kind, OPERANDS, reason="operands in 8 bits")


class Ranges:
    """Every tensor lies within -4..4."""

    threshold, is_nonnegative = 4.0, False

    def range(self, name):
        return self

    def is_edited(self, name):
        return False


def quantized(function, target):
    """The network of a model, optimised and quantized, as an engine of that backend has it."""
    network = network_of(Model(function))
    optimize(network, merge_siblings=False)
    insert_quantization(network, Ranges(), target=target)
    optimize(network, target=target)
    (layer,) = (y for y in network.layers if isinstance(y.kind, Plugin))
    return network, layer


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_quantized_network_hands_it_bytes_and_takes_them(leaky, target, tmp_path):
    network, layer = quantized(leaky, target)
    assert layer.inputs[0].dtype is DType.INT8
    assert layer.kind.scales == (pytest.approx(4 / 127), 0.0)
    assert layer.output.dtype is DType.INT8, "what follows is quantized in its epilogue"
    x = torch.randn(5, 16)
    (found,) = run_network(network, {"x": x}).values()
    assert found.shape == (5, 16)
    again = parse(text(network), {t.name: t.data for t in network.constants})
    torch.testing.assert_close(run_network(again, {"x": x})["output"], found)


def test_the_result_is_near_that_of_floats(leaky):
    model = Model(leaky).eval()
    network = lower(capture(model, (torch.randn(3, 16),), {})).network
    optimize(network, merge_siblings=False)
    insert_quantization(network, Ranges(), target="cpu")
    optimize(network, target="cpu")
    x = torch.randn(64, 16).clamp(-3, 3)
    (found,) = run_network(network, {"x": x}).values()
    wanted = model(x).detach()
    assert float((found - wanted).norm() / wanted.norm()) < 0.1


def test_a_quantized_network_as_an_engine(leaky, tmp_path):
    network, _ = quantized(leaky, "cpu")
    engine = build_engine(
        network, [{name: 3 for name in network.symbols}], open_backend("cpu", threads=1),
        TimingCache(tmp_path / "t"), precision="int8",
    )
    x = torch.randn(5, 16)
    got = torch.from_numpy(engine.run({"x": x.numpy()})["output"])
    (wanted,) = run_network(network, {"x": x}).values()
    assert float((got - wanted).abs().max()) < 0.1
    tactics = {step.tactic for plan in engine.plans for step in plan.steps}
    assert "plugin.python.arrays" in tactics


def test_without_int8_among_its_precisions_it_reads_floats():
    plain = torch2rt.plugin("t_int8::plain")(_plain)
    _, layer = quantized(plain, "cpu")
    assert layer.inputs[0].dtype is DType.FLOAT32
    assert not layer.kind.scales


def _plain(x: Tensor, w: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x) * w


def test_an_object_is_told_the_scales():
    class Halve(torch2rt.Plugin):
        name = "t_int8::halve"

        def output_types(self, inputs):
            return inputs

        def reference(self, x):
            return x / 2

        def configure(self, inputs, outputs, device, tactic):
            assert inputs[0].dtype is DType.INT8
            self.factor = np.float32(self.input_scales[0] / 2)

        def enqueue(self, inputs, outputs, workspace, stream):
            np.multiply(inputs[0], self.factor, out=outputs[0])

    torch2rt.plugin(Halve, precisions=("fp32", "int8"))
    halve = Halve()
    _, layer = quantized(lambda x, w, slope: halve(x), "cuda")
    kind = dataclasses.replace(layer.kind, outputs=(TensorType((3, 4), DType.FLOAT32),))
    check_tactic("plugin.python.first", kind, OPERANDS[:1])
