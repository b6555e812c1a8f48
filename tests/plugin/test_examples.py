"""The plugins of the examples: on a CPU, as kernels, and in a process without their source."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cuda_compile import compile_for_all
from cuda_testing import BlobWeights, TestedDevice, run_prepared
from tactic_testing import make_spec

import torch2rt
from torch2rt.backends.backend import find_tactic
from torch2rt.backends.cuda.cpp.plugin_source import plugin_source
from torch2rt.backends.cuda.device import preparing_for
from torch2rt.capture.export import capture
from torch2rt.layers.plugin import Plugin
from torch2rt.layers.specialize import specialize_kind
from torch2rt.lower import lower
from torch2rt.network.network import Network
from torch2rt.network.text import parse, text
from torch2rt.plugin import unregister
from torch2rt.torch_values import constant_from_torch

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES = {
    "02_plugin_leaky_integrator": ("demo::leaky", (3, 7, 16)),
    "03_plugin_deformable_convolution": ("demo::deform", (2, 3, 9, 12)),
    "04_plugin_grid_sample_3d": ("demo::grid_sample_3d", (2, 2, 4, 5, 6)),
}
MOST_LINES = 30


def example(name: str) -> ModuleType:
    """The example as a module, its plugin registered."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest):
    """Name, module, and the shape of an input."""
    plugin, shape = CASES[request.param]
    module = example(request.param)
    yield request.param, module, shape
    unregister(plugin)


def network_of(module: ModuleType, shape: tuple[int, ...]) -> tuple[Network, torch.Tensor]:
    """The example's network, lowered, and an input."""
    model, _ = module.model_and_input()
    x = torch.randn(shape)
    return lower(capture(model, (x,), {})).network, x


def plugin_layer(network: Network):
    (layer,) = (layer for layer in network.layers if isinstance(layer.kind, Plugin))
    return layer


def test_converts_and_gives_what_the_model_gives(case, tmp_path):
    _, module, shape = case
    model, _ = module.model_and_input()
    rt = torch2rt.convert(
        model, torch.randn(shape), timing_cache=tmp_path / "t.jsonl", progress=False
    )
    for batch in (shape[0], 5):
        x = torch.randn(batch, *shape[1:])
        torch.testing.assert_close(rt(x), model(x).detach(), rtol=1e-4, atol=1e-5)
    assert "(plugin) =" in rt.report()


def test_the_kernel_runs_from_the_text_of_a_network_alone(case, cuda_device: TestedDevice):
    name, module, shape = case
    network, _ = network_of(module, shape)
    layer = plugin_layer(network)
    generator = torch.Generator().manual_seed(1)
    (symbol,) = network.symbols
    kind = specialize_kind(layer.kind, {symbol: shape[0]})
    inputs = [
        torch.randn([shape[0] if not isinstance(d, int) else d for d in t.shape],
                    generator=generator) / 2
        for t in layer.inputs
    ]
    constants = [i for i, tensor in enumerate(layer.inputs) if tensor.is_constant]
    expected = kind.reference([x.double() for x in inputs])
    constant_data = {t.name: t.data for t in network.constants}
    unregister(CASES[name][0])

    again = plugin_layer(parse(text(network), constant_data)).kind
    spec = make_spec(specialize_kind(again, {symbol: shape[0]}), inputs, constants=constants)
    arrays = {f"c{i}": constant_from_torch(inputs[i])[0] for i in constants}
    with preparing_for(cuda_device.device):
        prepared = find_tactic(
            "torch2rt.backends.cuda.tactics", "plugin.cuda.first"
        ).prepare(spec, BlobWeights(arrays))
    for got, want in zip(run_prepared(prepared, spec, inputs), expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_the_kernel_compiles_for_every_architecture(case):
    _, module, shape = case
    network, _ = network_of(module, shape)
    layer = plugin_layer(network)
    (symbol,) = network.symbols
    kind = specialize_kind(layer.kind, {symbol: 2})
    sizes = [[2 if not isinstance(d, int) else d for d in t.shape] for t in layer.inputs]
    spec = make_spec(kind, [torch.zeros(size) for size in sizes])
    (((source, entry, *_),),) = kind.cuda
    compile_for_all(plugin_source(spec, source), entry)


def test_a_plugin_takes_thirty_lines_at_most(case):
    name, *_ = case
    source = (EXAMPLES / f"{name}.py").read_text()
    plugin = source[source.index("SOURCE =") : source.index("class Network")]
    assert len([line for line in plugin.splitlines() if line.strip()]) <= MOST_LINES


FRESH = """
import sys
import numpy as np
sys.modules["torch"] = None
import torch2rt
engine = torch2rt.Engine.load(sys.argv[1])
np.save(sys.argv[3], engine.run({engine.bindings.inputs[0].name: np.load(sys.argv[2])})["output"])
"""


@pytest.mark.gpu
def test_a_fresh_process_runs_the_file_without_torch_and_source(case, tmp_path):
    import numpy as np

    _, module, _ = case
    model, x = module.model_and_input()
    rt = torch2rt.convert(
        model.cuda(), x.cuda(), timing_cache=tmp_path / "t.jsonl", progress=False
    )
    assert re.search(r"plugin\.cuda\.first", rt.report())
    rt.save(tmp_path / "m.engine")
    np.save(tmp_path / "x.npy", x.numpy())
    files = [tmp_path / name for name in ("m.engine", "x.npy", "y.npy")]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(
        torch.from_numpy(np.load(tmp_path / "y.npy")), model(x.cuda()).detach().cpu(),
        rtol=1e-4, atol=1e-5,
    )
