"""The script of the CUDA table, on the CPU, where events are clocks."""

import csv
import importlib.util
import sys
import time
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"


class Event:
    def __init__(self, enable_timing):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, later):
        return (later.at - self.at) * 1e3


@pytest.fixture
def script(monkeypatch):
    """The script as a module, with a GPU that is made up and one small model."""
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("cuda_bench", BENCH / "cuda_bench.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cuda_bench", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    models = {"small": lambda batch: (torch.nn.Linear(8, 4), (torch.randn(batch, 8),))}
    monkeypatch.setattr(module.cuda_models, "MODELS", models)
    return module


def test_rows_are_checked_timed_and_written_one_by_one(script, tmp_path, monkeypatch, capsys):
    out = tmp_path / "cuda.csv"
    monkeypatch.setattr(sys, "argv", [
        "cuda_bench.py", "--device", "cpu", "--precision", "fp32", "--models", "small",
        "--batches", "1,3", "--contenders", "torch2rt,eager,graph", "--seconds", "0.05",
        "--rounds", "2", "--threads", "1", "--out", str(out),
    ])
    assert script.main() == 0
    lines = [line for line in out.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    found = {(row["batch"], row["contender"]): row for row in rows}
    assert set(found) == {(b, c) for b in "13" for c in ("torch2rt", "eager", "graph")}
    assert found["1", "graph"]["status"] == "n/a"
    for key in (("1", "torch2rt"), ("3", "eager")):
        assert found[key]["status"] == "ok"
        assert float(found[key]["median_ms"]) > 0
        assert float(found[key]["latency_ms"]) > 0
        assert float(found[key]["error"]) < 1e-5
    assert "small b3 done" in capsys.readouterr().out


def test_a_contender_that_fails_is_a_row_that_says_so(script, tmp_path, monkeypatch):
    out = tmp_path / "cuda.csv"
    monkeypatch.setattr(script.cuda_models, "MODELS", {"odd": _odd})
    monkeypatch.setattr(sys, "argv", [
        "cuda_bench.py", "--device", "cpu", "--precision", "fp32", "--models", "odd",
        "--contenders", "torch2rt,eager", "--seconds", "0.02", "--rounds", "1", "--out", str(out),
    ])
    assert script.main() == 0
    text = out.read_text()
    assert ",failed," in text
    assert "data-dependent" in text or "decides" in text, text


class Odd(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def _odd(batch):
    return Odd(), (torch.ones(batch, 8),)
