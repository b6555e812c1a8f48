"""What an engine costs beside its kernels: overhead of a call, memory, conversion, load.

    python tests/bench/engine_bars.py

Writes results/engine_<date>.csv: one row per figure, with the bar it is held against.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import models
import torch

import torch2rt
from torch2rt.bench.machine import machine_card

HERE = Path(__file__).parent

LOAD = """
import sys, time
start = time.perf_counter()
import numpy as np
import torch2rt
engine = torch2rt.Engine.load(sys.argv[1])
name = engine.bindings.inputs[0].name
engine.run({name: np.zeros((1, 3, 224, 224), np.float32)})
print(time.perf_counter() - start)
assert "torch" not in sys.modules
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: the median of ``samples`` in ``unit``, and its bar."""

    name: str
    unit: str
    samples: list[float]
    bar: float


def main() -> int:
    torch.manual_seed(0)
    figures = [*overheads(), *conversions(), *arenas()]
    target = HERE / "results" / f"engine_{date.today().isoformat()}.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file)
        writer.writerow(["figure", "unit", "median", "least", "most", "count", "bar"])
        for f in figures:
            row = [statistics.median(f.samples), min(f.samples), max(f.samples)]
            writer.writerow([f.name, f.unit, *(f"{v:.4g}" for v in row), len(f.samples), f.bar])
            sys.stdout.write(f"{f.name:<50} {row[0]:9.3f} {f.unit:<6} bar {f.bar}\n")
    return 0


def overheads() -> list[Figure]:
    """A call of an engine that does next to nothing: one relu on [1, 8]."""
    x = torch.randn(1, 8)
    with tempfile.TemporaryDirectory() as folder:
        rt = torch2rt.convert(
            torch.nn.ReLU(), x, timing_cache=Path(folder, "t.jsonl"), progress=False
        )
    given = {rt.engine.bindings.inputs[0].name: x.numpy()}
    with torch.no_grad():
        return [
            Figure("call overhead through rt", "us", batches_us(lambda: rt(x)), 25),
            Figure("call overhead through Engine.run", "us",
                   batches_us(lambda: rt.engine.run(given)), 10),
        ]


def batches_us(function: Callable[[], object]) -> list[float]:
    """Microseconds per call, for 20 batches of 500 calls."""
    function()
    samples = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(500):
            function()
        samples.append((time.perf_counter() - start) / 500 * 1e6)
    return samples


def conversions() -> list[Figure]:
    """ResNet-50: conversion with a cold and a warm timing cache, load to first result."""
    model, inputs = models.resnet50()
    with tempfile.TemporaryDirectory() as folder:
        cache, engine = Path(folder, "timing.jsonl"), Path(folder, "m.engine")
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            rt = torch2rt.convert(model, inputs, timing_cache=cache, progress=False)
            seconds.append(time.perf_counter() - start)
        rt.save(engine)
        loads = [
            float(subprocess.run(
                [sys.executable, "-c", LOAD, str(engine)], capture_output=True, text=True,
                check=True,
            ).stdout)
            for _ in range(5)
        ]
    return [
        Figure("convert ResNet-50, cold timing cache", "s", seconds[:1], 30),
        Figure("convert ResNet-50, warm timing cache", "s", seconds[1:], 6),
        Figure("load ResNet-50 to first result, torch-free", "s", loads, 0.6),
    ]


def arenas() -> list[Figure]:
    """Arena size over the largest sum of live bytes."""
    figures = []
    for name in ("resnet50", "mobilenet_v2", "resnet18", "bert_base"):
        model, inputs = getattr(models, name)()
        plan = torch2rt.convert(model, inputs, progress=False).engine.plans[0]
        ratio = plan.arena_bytes / plan.live_bytes
        figures.append(Figure(f"arena over lower bound, {name}", "ratio", [ratio], 1.10))
    return figures


if __name__ == "__main__":
    sys.exit(main())
