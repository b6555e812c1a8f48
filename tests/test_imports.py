"""What imports what: run time knows nothing of building, and needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from needs import needs_onednn

import torch2rt

ROOT = Path(torch2rt.__file__).parent
RUN_TIME = ("module.py", "engine", "backends", "network", "expression.py")
FORBIDDEN = ("capture", "passes", "fusions", "quantize", "build", "lower", "convert", "inspect")


def imports_at_load(path):
    """Modules of torch2rt that a file imports when it is loaded, type checking left out."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch2rt"):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_time_files():
    for name in RUN_TIME:
        place = ROOT / name
        yield from place.rglob("*.py") if place.is_dir() else [place]


@pytest.mark.parametrize("path", list(run_time_files()), ids=lambda p: str(p.relative_to(ROOT)))
def test_run_time_does_not_import_the_builder(path):
    found = [
        name
        for name in imports_at_load(path)
        if len(name.split(".")) > 1 and name.split(".")[1] in FORBIDDEN
    ]
    assert not found


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )


def test_importing_torch2rt_imports_neither_torch_nor_optional_packages():
    done = run(
        "import sys, torch2rt\n"
        "assert not {'torch', 'cupy', 'triton', 'numpy'} & set(sys.modules), 'imported'"
    )
    assert done.returncode == 0, done.stderr


@needs_onednn
def test_an_engine_loads_and_runs_without_torch(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(256, 4), torch.nn.Softmax(-1),
    ).eval()
    x = torch.randn(1, 3, 8, 8)
    rt = torch2rt.convert(model, x, timing_cache=tmp_path / "t.jsonl", progress=False)
    rt.save(tmp_path / "m.engine")
    done = run(
        "import sys\n"
        "sys.modules['torch'] = None  # any import of torch now fails\n"
        "import numpy as np, torch2rt\n"
        "engine = torch2rt.Engine.load(sys.argv[1])\n"
        "for batch in (1, 3):  # 3: a plan on demand, torch-free as well\n"
        "    y = engine.run({'input': np.ones((batch, 3, 8, 8), np.float32)})['output']\n"
        "    assert y.shape == (batch, 4)\n"
        "    assert abs(y.sum() - batch) < 1e-4\n",
        tmp_path / "m.engine",
    )
    assert done.returncode == 0, done.stderr


def test_convert_stays_the_function_when_its_file_is_imported():
    done = run("import torch2rt, torch2rt.convert as m\nassert callable(torch2rt.convert)")
    assert done.returncode == 0, done.stderr
