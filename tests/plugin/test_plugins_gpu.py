"""Plugins on a GPU: in graphs and between them, precisions, streams, misdeeds, files."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torch2rt
from torch2rt.errors import PluginError
from torch2rt.plugin import CudaKernel, TritonKernel, ceil_div, count

pytestmark = pytest.mark.gpu

SOURCE = r"""
extern "C" __global__ void leaky(const in0_t* x, out0_t* y, int n, float slope) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        const float value = to_float(x[i]);
        y[i] = from_float<out0_t>(value > 0.0f ? value : slope * value);
    }
}"""


def blocks(shapes, attributes):
    return ceil_div(count(shapes.outputs[0]), 256)


def cupy_leaky(inputs, outputs, attributes):
    import cupy

    (x,) = inputs
    cupy.multiply(x, cupy.where(x > 0, 1, attributes["slope"]), out=outputs[0])


def raw_leaky(inputs, outputs, attributes):
    import cupy

    kernel = cupy.RawKernel(
        SOURCE.replace("in0_t", "float").replace("out0_t", "float")
        .replace("from_float<float>", "").replace("to_float", ""), "leaky",
    )
    size = inputs[0].size
    kernel((-(-size // 256),), (256,), (
        inputs[0], outputs[0], np.int32(size), np.float32(attributes["slope"])
    ))


def body(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


class Model(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(64, 64), nn.Linear(64, 8), function

    def forward(self, x):
        return self.last(self.function(self.first(x), 0.125) + 1)


def check(function, tmp_path, tactic, precision="fp32", tolerance=1e-4):
    torch.manual_seed(0)
    model = Model(function).cuda().eval()
    x = torch.randn(16, 64, device="cuda")
    rt = torch2rt.convert(
        model, x, precision=precision, timing_cache=tmp_path / "t.jsonl", progress=False
    )
    assert tactic in rt.report()
    stream = torch.cuda.Stream()
    for value in (x, x * 2, torch.randn(5, 64, device="cuda")):
        for _ in range(4):  # enqueued, captured, replayed
            got = rt(value)
        torch.testing.assert_close(got, model(value).detach(), rtol=tolerance, atol=tolerance)
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            got = rt(value)
        stream.synchronize()
        torch.testing.assert_close(got, model(value).detach(), rtol=tolerance, atol=tolerance)
    return rt, model, x


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_kernel_is_part_of_the_graph(tmp_path, precision):
    function = torch2rt.plugin(
        "t_gpu::leaky", precisions=("fp32", "fp16", "bf16"),
        cuda=CudaKernel(SOURCE, "leaky", grid=blocks),
    )(body)
    tolerance = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 6e-2}[precision]
    rt, *_ = check(function, tmp_path, "plugin.cuda.first", precision, tolerance)
    (layer,) = (layer for layer in rt.engine.network.layers if layer.kind.name == "plugin")
    wanted = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision]
    assert layer.output.dtype.value == wanted


def test_a_triton_kernel(tmp_path):
    pytest.importorskip("triton")
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent))
    import triton_kernels

    function = torch2rt.plugin("t_gpu::triton", triton=TritonKernel(
        triton_kernels.leaky, grid=lambda s, a: ceil_div(count(s.outputs[0]), 256),
        constants={"BLOCK": 256},
    ))(_halved)
    check(function, tmp_path, "plugin.triton.first", tolerance=1e-3)


def _halved(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x) / 2


@pytest.mark.parametrize(("function", "capturable"), [(cupy_leaky, False), (raw_leaky, True)])
def test_functions_of_cupy_split_the_graph_or_are_captured(tmp_path, function, capturable):
    plugin = torch2rt.plugin("t_gpu::cupy", cupy=function, capturable=capturable)(body)
    check(plugin, tmp_path, "plugin.python.cupy", tolerance=1e-3)


def test_enqueue_gets_arrays_a_workspace_and_the_stream(tmp_path):
    events = []

    @torch2rt.plugin
    class Leaky(torch2rt.Plugin):
        name = "t_gpu::full"

        def __init__(self, slope):
            self.slope = slope

        def output_types(self, inputs):
            return inputs

        def reference(self, x):
            return body(x, self.slope)

        def workspace_bytes(self, inputs, outputs):
            return 4 * inputs[0].element_count

        def initialize(self):
            events.append("initialize")

        def enqueue(self, inputs, outputs, workspace, stream):
            import cupy

            assert cupy.cuda.get_current_stream().ptr == stream.ptr
            scaled = workspace.view(np.float32).reshape(inputs[0].shape)
            cupy.multiply(inputs[0], np.float32(self.slope), out=scaled)
            cupy.maximum(inputs[0], scaled, out=outputs[0])

    leaky = Leaky(0.125)
    check(lambda x, slope: leaky(x), tmp_path, "plugin.python.first", tolerance=1e-3)
    assert "initialize" in events


def test_without_an_implementation_the_body_runs_between_graphs(tmp_path):
    function = torch2rt.plugin("t_gpu::plain")(body)
    check(function, tmp_path, "any.torch.reference", tolerance=1e-3)


def test_a_kernel_that_writes_beyond_its_output_is_told_by_name(tmp_path):
    wild = SOURCE.replace("if (i < n) {", "if (i == 0) y[n] = out0_t(); if (i < n) {")
    function = torch2rt.plugin(
        "t_gpu::wild", cuda=CudaKernel(wild, "leaky", grid=blocks)
    )(body)
    model = Model(function).cuda().eval()
    # 15 rows end within an allocation, so that what is written beyond them harms no operand: after
    # 16 the input may follow, and the kernel would lose for its result before this is seen.
    with pytest.raises(PluginError, match=r"plugin 't_gpu::wild', layer .* bytes after output 0"):
        torch2rt.convert(
            model, torch.randn(15, 64, device="cuda"), timing_cache=tmp_path / "t.jsonl",
            progress=False,
        )


def test_a_kernel_that_is_wrong_loses_to_the_body(tmp_path, caplog):
    wrong = SOURCE.replace("slope * value", "value")
    function = torch2rt.plugin(
        "t_gpu::wrong", cuda=CudaKernel(wrong, "leaky", grid=blocks)
    )(body)
    check(function, tmp_path, "any.torch.reference", tolerance=1e-3)
    assert "plugin.cuda.first" in caplog.text


def test_a_kernel_that_faults_loses_itself_alone(tmp_path, caplog):
    faulty = SOURCE.replace("if (i < n) {", "if (i < n) { ((int*)16)[i] = 1;")
    function = torch2rt.plugin(
        "t_gpu::faulty", cuda=CudaKernel(faulty, "leaky", grid=blocks)
    )(body)
    check(function, tmp_path, "any.torch.reference", tolerance=1e-3)
    assert "its first run failed" in caplog.text


FRESH = """
import sys
import numpy as np
sys.modules["torch"] = None
sys.modules["triton"] = None
import torch2rt
engine = torch2rt.Engine.load(sys.argv[1])
for name in sys.argv[2:]:  # 5 rows: a plan on demand
    np.save(name + ".out.npy", engine.run({"x": np.load(name)})["output"])
"""


@pytest.mark.parametrize("way", ["cuda", "triton"])
def test_a_fresh_process_runs_kernels_from_the_file_at_any_size(tmp_path, way):
    if way == "triton":
        pytest.importorskip("triton")
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).parent))
        import triton_kernels

        function = torch2rt.plugin("t_gpu::file", triton=TritonKernel(
            triton_kernels.leaky, grid=blocks, constants={"BLOCK": 256}
        ))(_halved)
    else:
        function = torch2rt.plugin(
            "t_gpu::file", cuda=CudaKernel(SOURCE, "leaky", grid=blocks)
        )(body)
    model = Model(function).cuda().eval()
    rt = torch2rt.convert(
        model, torch.randn(16, 64, device="cuda"), timing_cache=tmp_path / "t.jsonl",
        progress=False,
    )
    assert f"plugin.{way}.first" in rt.report()
    rt.save(tmp_path / "m.engine")
    inputs = {str(tmp_path / f"x{n}.npy"): torch.randn(n, 64) for n in (16, 5)}
    for name, x in inputs.items():
        np.save(name, x.numpy())
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "m.engine"), *inputs], capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name, x in inputs.items():
        got = torch.from_numpy(np.load(f"{name}.out.npy"))
        torch.testing.assert_close(got, model(x.cuda()).detach().cpu(), rtol=1e-3, atol=1e-3)
