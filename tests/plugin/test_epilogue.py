"""What follows a plugin becomes its epilogue where its kernels say that they apply one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import assert_refused, check_cuda_tactic
from tactic_testing import check_tactic, make_spec
from torch import Tensor, nn

import torch2rt
from torch2rt.backends.cuda.cpp.plugin_source import plugin_source
from torch2rt.capture.export import capture
from torch2rt.layers.specialize import specialize_kind
from torch2rt.lower import lower
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType
from torch2rt.passes.pipeline import optimize
from torch2rt.plugin import CudaKernel, ceil_div, count

SOURCE = r"""
extern "C" __global__ void twice(const in0_t* x, out0_t* y, int n EPILOGUE_PARAMETERS) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = from_float<out0_t>(EPILOGUE(2.0f * to_float(x[i]), i));
}"""
ADDS = "add(add(i0,i1),i2)"
SHAPE = (3, 4, 5, 2)
OPERANDS = {
    "none": ("relu(i0)", []),
    "channel": ("relu(add(i0,i1))", [(4, 1, 1)]),
    "whole": ("add(mul(i0,i1),tanh(i2))", [SHAPE, (1, 4, 1, 2)]),
    "row_and_image": ("add(add(i0,i1),i2)", [(2,), (3, 1, 1, 1)]),
    "scalar": ("mul(i0,i1)", [()]),
}


def arrays(inputs, outputs, attributes):
    np.multiply(inputs[0], 2, out=outputs[0])


@pytest.fixture
def twice():
    @torch2rt.plugin(
        "t_epilogue::twice", epilogue=True, cpu=arrays, precisions=("fp32", "fp16"),
        cuda=CudaKernel(
            SOURCE, "twice", grid=lambda s, a: ceil_div(count(s.outputs[0]), 64), block=64,
            numbers=lambda s, a: [count(s.outputs[0])],
        ),
    )
    def twice(x: Tensor) -> Tensor:
        return x * 2

    return twice


class Model(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.bias = function, nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        return torch.relu(self.function(x) + self.bias) + x


def kind_of(function):
    x = torch.randn(SHAPE)
    network = lower(capture(Model(function).eval(), (x,), {})).network
    (layer,) = (y for y in network.layers if y.kind.name == "plugin_with_epilogue")
    return specialize_kind(layer.kind, {name: 3 for name in network.symbols})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", OPERANDS)
def test_kernels_apply_it(twice, name, dtype, cuda_device):
    epilogue, shapes = OPERANDS[name]
    kind = kind_of(twice)
    x = torch.randn(SHAPE).to(dtype)
    extras = [torch.randn(shape) for shape in shapes]
    out = DType.FLOAT16 if dtype is torch.float16 else None
    check_cuda_tactic("plugin.cuda.first", kind, [x, *extras], epilogue, out_dtype=out)
    if name == "channel":
        spec = make_spec(kind, [x, *extras], epilogue, out_dtype=out)
        compile_for_all(plugin_source(spec, SOURCE), "twice")


def test_a_quantized_result(twice, cuda_device):
    epilogue = "to_int8(clamp(round(mul(i0,8.0)),-128.0,127.0))"
    check_cuda_tactic(
        "plugin.cuda.first", kind_of(twice), [torch.randn(SHAPE)], epilogue, out_dtype=DType.INT8,
        exact=True,
    )


def test_one_text_serves_every_batch(twice):
    kind = kind_of(twice)
    texts = set()
    for batch in (3, 7):
        x = torch.zeros(batch, 4, 5, 2)
        types = (TensorType((batch, 4, 5, 2), DType.FLOAT32),)
        spec = make_spec(replace(kind, outputs=types), [x, torch.zeros(4, 1, 1), x], ADDS)
        texts.add(plugin_source(spec, SOURCE))
    assert len(texts) == 1


@pytest.mark.parametrize("name", OPERANDS)
def test_numpy_applies_it_after_the_function(twice, name):
    epilogue, shapes = OPERANDS[name]
    inputs = [torch.randn(SHAPE), *(torch.randn(shape) for shape in shapes)]
    check_tactic("plugin.python.arrays", kind_of(twice), inputs, epilogue)


def test_it_fuses_and_the_engine_is_right(twice, tmp_path):
    model = Model(twice).eval()
    x = torch.randn(SHAPE)
    network = lower(capture(model, (x,), {})).network
    optimize(network)
    (layer,) = network.layers
    assert layer.epilogue.text == "add(relu(add(i0,i1)),i2)"
    rt = torch2rt.convert(model, x, timing_cache=tmp_path / "t", progress=False)
    for value in (x, torch.randn(5, 4, 5, 2)):
        torch.testing.assert_close(rt(value), model(value).detach(), rtol=1e-5, atol=1e-5)
    assert "plugin.python.arrays" in rt.report()
    rt.save(tmp_path / "m.engine")
    loaded = torch2rt.load(tmp_path / "m.engine")
    torch.testing.assert_close(loaded(x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_without_the_option_nothing_fuses():
    plain = torch2rt.plugin("t_epilogue::plain")(lambda x: x * 2)
    network = lower(capture(Model(plain).eval(), (torch.randn(SHAPE),), {})).network
    optimize(network)
    assert [layer.kind.name for layer in network.layers] == ["plugin", "pointwise"]


def test_what_python_on_a_gpu_and_float64_refuse(twice):
    kind = kind_of(twice)
    x = torch.randn(SHAPE)
    assert_refused("plugin.triton.first", kind, [x], "relu(i0)", reason="the plugin has 0 ways")
    extra = torch.randn(SHAPE, dtype=torch.float64)
    assert_refused(
        "plugin.cuda.first", kind, [x, extra], "add(i0,i1)", reason="an epilogue in float64"
    )
