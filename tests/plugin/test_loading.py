"""Engine files with plugins: fresh processes, missing packages, hostile text, threads."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import torch2rt
from torch2rt.backends.backend import find_tactic
from torch2rt.backends.tactic import Unprepared
from torch2rt.cli import main
from torch2rt.engine.archive import engine_file
from torch2rt.engine.file import write
from torch2rt.errors import ConfigError, EngineFileError, NoTacticError, PluginMissingError
from torch2rt.layers.plugin import Plugin
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType
from torch2rt.plugin import unregister

PACKAGE = '''
import numpy as np
import torch
import torch2rt

def arrays(inputs, outputs, attributes):
    np.multiply(inputs[0], attributes["factor"], out=outputs[0])

@torch2rt.plugin("t_loading::scale", cpu=arrays)
def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    return x * factor

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(scale(self.linear(x), 3.0))
'''
LOADS = """
import sys
import numpy as np
import torch2rt
engine = torch2rt.Engine.load(sys.argv[1], plugins=sys.argv[4:])
assert "their_layers" in sys.modules or not sys.argv[4:]
np.save(sys.argv[3], engine.run({"x": np.load(sys.argv[2])})["output"])
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's module, importable here and by name alone in other processes."""
    (tmp_path / "their_layers.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    import their_layers

    yield their_layers
    del sys.modules["their_layers"]


@pytest.fixture
def built(package, tmp_path):
    """A model with the plugin, its engine, and the engine's file."""
    model = package.Model().eval()
    rt = torch2rt.convert(
        model, torch.randn(2, 4), timing_cache=tmp_path / "t", progress=False
    )
    rt.save(tmp_path / "m.engine")
    return model, rt, tmp_path / "m.engine"


def load_apart(tmp_path, *plugins):
    files = [tmp_path / name for name in ("m.engine", "x.npy", "y.npy")]
    return subprocess.run(
        [sys.executable, "-c", LOADS, *map(str, files), *plugins], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )


def test_a_fresh_process_imports_what_it_is_told_to_and_nothing_else(built, tmp_path):
    model, _, _ = built
    x = torch.randn(3, 4)
    np.save(tmp_path / "x.npy", x.numpy())
    done = load_apart(tmp_path)
    assert done.returncode != 0
    assert ("plugin 't_loading::scale' version 1 runs Python code of 'their_layers', and nothing "
            "of this name is registered. Loading an engine imports nothing: import 'their_layers' "
            "first, or pass it in plugins=[...].") in done.stderr
    done = load_apart(tmp_path, "their_layers")
    assert done.returncode == 0, done.stderr
    found = torch.from_numpy(np.load(tmp_path / "y.npy"))
    torch.testing.assert_close(found, model(x).detach(), rtol=1e-5, atol=1e-5)


def test_functions_classes_and_modules_may_be_passed(built, package):
    model, _, path = built
    for plugins in ([package], ["their_layers"], "their_layers", [package.scale]):
        x = torch.randn(3, 4)
        loaded = torch2rt.load(path, plugins=plugins)
        torch.testing.assert_close(loaded(x), model(x).detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="no plugin"):
        torch2rt.load(path, plugins=[3])
    with pytest.raises(ConfigError, match="there is no module 'nowhere'"):
        torch2rt.load(path, plugins=["nowhere.layers"])
    unregister("t_loading::scale")
    with pytest.raises(PluginMissingError):
        torch2rt.load(path)
    assert torch2rt.load(path, plugins=[package.scale]) is not None


def test_a_plugin_that_lost_the_function_of_its_engine_is_named(built):
    _, _, path = built
    unregister("t_loading::scale")

    @torch2rt.plugin("t_loading::scale")
    def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    with pytest.raises(NoTacticError, match=r"(?s)no cpu tactic can run layer scale.*plugin\.python"
                       r"\.arrays: t_loading::scale is registered without its function for the C"):
        torch2rt.load(path)(torch.randn(2, 4))


def test_a_class_of_an_interactive_session_may_be_a_plugin():
    code = (
        "import torch, torch2rt\n@torch2rt.plugin\nclass Twice(torch.nn.Module):\n"
        "    def forward(self, x):\n        return x * 2\n"
        "model, x = torch.nn.Sequential(Twice()).eval(), torch.randn(2, 4)\n"
        "rt = torch2rt.convert(model, x, progress=False)\nprint(torch.equal(rt(x), model(x)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_the_command_line_imports_what_it_is_told_to(built, capsys):
    _, _, path = built
    unregister("t_loading::scale")
    assert main(["run", str(path)]) == 1
    assert "runs Python code of 'their_layers'" in capsys.readouterr().err
    del sys.modules["their_layers"]
    assert main(["run", str(path), "--plugins", "their_layers"]) == 0
    assert "output: float32[" in capsys.readouterr().out


def test_threads_call_one_engine(built):
    model, rt, _ = built
    inputs = [torch.randn(n % 3 + 1, 4) for n in range(12)]
    results = [None] * len(inputs)

    def call(index):
        results[index] = rt(inputs[index])

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, result in zip(inputs, results, strict=True):
        torch.testing.assert_close(result, model(x).detach(), rtol=1e-5, atol=1e-5)


# ---- hostile files -----------------------------------------------------------------------------

TYPES = (TensorType((2,), DType.FLOAT32),)
LAUNCH = ("", "k", (1, 1, 1), (1, 1, 1), 0, ())


@pytest.mark.parametrize(("changes", "reason"), [
    ({"plugin": 3}, "texts"),
    ({"outputs": (3,)}, "outputs are no tensor types"),
    ({"host": ("shell",)}, "unknown ways"),
    ({"cuda": ((LAUNCH[:5],),)}, "a launch is damaged"),
    ({"cuda": (((3, *LAUNCH[1:]),),)}, "a launch is damaged"),
    ({"cuda": ((("", "k", (1,), (1, 1, 1), 0, ()),),)}, "a launch is damaged"),
    ({"cuda": ("text",)}, "a launch is damaged"),
    ({"cuda": (3,)}, "a launch is damaged"),
    ({"triton": ((("s", "k"),),)}, "a launch is damaged"),
    ({"precisions": ("fp32",)}, "precisions"),
    ({"workspace": "x"}, "workspace"),
])
def test_damaged_attributes_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(Plugin("a::b", "1", "c", TYPES), **changes)


@pytest.mark.parametrize("launch", [
    (*LAUNCH[:2], (-1, 1, 1), *LAUNCH[3:]),
    (*LAUNCH[:2], ("x", 1, 1), *LAUNCH[3:]),
    (*LAUNCH[:5], ("numbers",)),
    (*LAUNCH[:4], "0", ()),
])
def test_a_launch_with_odd_sizes_is_not_prepared(launch):
    from cuda_testing import BlobWeights, cuda_spec, emulated

    from torch2rt.backends.cuda.device import preparing_for

    source = 'extern "C" __global__ void k(const float* x, float* y) {}'
    kind = Plugin("a::b", "1", "c", TYPES, cuda=(((source, *launch[1:]),),))
    spec = cuda_spec(kind, [torch.randn(2)])
    with preparing_for(emulated().device), pytest.raises(Unprepared):
        find_tactic("torch2rt.backends.cuda.tactics", "plugin.cuda.first").prepare(
            spec, BlobWeights({})
        )


def test_a_file_cannot_name_code_of_its_own(built, tmp_path):
    _, rt, _ = built
    file = engine_file(rt.engine)
    for old, new, error in (
        ("t_loading::scale", "os::system", PluginMissingError),
        ('"host":["cpu"]', '"host":["exec"]', EngineFileError),
    ):
        assert old in file.network_text
        text = file.network_text.replace(old, new)
        write(tmp_path / "bad.engine", dataclasses.replace(file, network_text=text))
        with pytest.raises(error):
            torch2rt.Engine.load(tmp_path / "bad.engine")


def test_a_module_without_plugins_needs_no_registry(tmp_path):
    rt = torch2rt.convert(
        nn.Linear(4, 2).eval(), torch.randn(2, 4), timing_cache=tmp_path / "t", progress=False
    )
    rt.save(tmp_path / "m.engine")
    assert torch2rt.load(tmp_path / "m.engine") is not None
