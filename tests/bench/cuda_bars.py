"""What a CUDA engine costs beside its kernels: conversion, load, overhead of a call, memory.

    python tests/bench/cuda_bars.py [--batch 64] [--runs 3] [--out FILE.csv]

Writes results/cuda_engine_<date>.csv: one row per figure. Conversions run in processes of their
own, with caches that are cold in the first and warm in the others.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

import torch2rt
from torch2rt.bench.gpu_turn import run_gpu_turn
from torch2rt.bench.machine import machine_card

HERE = Path(__file__).parent

CONVERT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import cuda_models, torch, torch2rt
model, (x,) = cuda_models.make("resnet50", int(sys.argv[2]))
model, x = model.cuda(), x.cuda()
torch.cuda.synchronize()
start = time.perf_counter()
rt = torch2rt.convert(
    model, x, precision="fp16", device="cuda", timing_cache=sys.argv[3], verify=False,
    progress=False,
)
print(time.perf_counter() - start)
rt.save(sys.argv[4])
"""

LOAD = """
import sys, time
start = time.perf_counter()
import numpy as np
import torch2rt
engine = torch2rt.Engine.load(sys.argv[1])
(binding,) = engine.bindings.inputs
shape = (int(sys.argv[2]), 3, 224, 224)
engine.run({binding.name: np.zeros(shape, binding.type.dtype.numpy)})
print(time.perf_counter() - start)
assert "torch" not in sys.modules and "triton" not in sys.modules
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: its samples in ``unit``."""

    name: str
    unit: str
    samples: list[float]


def main() -> int:
    parser = argparse.ArgumentParser(description="conversion, load, call overhead, memory")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3, help="conversions, the first one cold")
    default = HERE / "results" / f"cuda_engine_{date.today().isoformat()}.csv"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = [*engines(Path(folder), args.batch, args.runs), *overheads(Path(folder))]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file)
        writer.writerow(["figure", "unit", "median", "least", "most", "count"])
        for figure in figures:
            writer.writerow([figure.name, figure.unit, *_summary(figure), len(figure.samples)])
            sys.stdout.write(f"{figure.name:<56} {_summary(figure)[0]:>10} {figure.unit}\n")
    return 0


def engines(folder: Path, batch: int, runs: int) -> list[Figure]:
    """ResNet-50 in fp16: conversion with cold and warm caches, size of the file, load."""
    cache, engine = folder / "timing.jsonl", folder / "m.engine"
    seconds = [_seconds(CONVERT, HERE, batch, cache, engine) for _ in range(runs)]
    loads = [_seconds(LOAD, engine, batch) for _ in range(5)]
    what = f"ResNet-50 b{batch} fp16"
    return [
        Figure(f"convert {what}, cold caches", "s", seconds[:1]),
        Figure(f"convert {what}, warm caches", "s", seconds[1:] or seconds),
        Figure(f"engine file of {what}", "MB", [engine.stat().st_size / 1e6]),
        Figure(f"load {what} to first result, no torch", "s", loads),
    ]


def overheads(folder: Path) -> list[Figure]:
    """A call of an engine that does next to nothing: one relu on [1, 8]."""
    x = torch.randn(1, 8, device="cuda")
    rt = torch2rt.convert(
        torch.nn.ReLU(), x, device="cuda", timing_cache=folder / "relu.jsonl", progress=False
    )
    with torch.inference_mode():
        turns = [run_gpu_turn(lambda: rt(x), 0.3, 100, 0.1) for _ in range(5)]
        host = [_enqueue_us(rt, x) for _ in range(5)]
    return [
        Figure("call of rt(x), enqueued back to back", "us", [t.busy_ms * 1e3 for t in turns]),
        Figure("call of rt(x), waited for", "us", [t.latency_ms * 1e3 for t in turns]),
        Figure("call of rt(x), host time to enqueue", "us", host),
    ]


def _enqueue_us(rt: torch2rt.RTModule, x: torch.Tensor, calls: int = 200) -> float:
    """Microseconds of the host per call, with the GPU never behind by much."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        rt(x)
    spent = time.perf_counter() - start
    torch.cuda.synchronize()
    return spent / calls * 1e6


def _seconds(script: str, *arguments: object) -> float:
    """What a script prints, run in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a process ended with {done.returncode}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def _summary(figure: Figure) -> list[str]:
    values = statistics.median(figure.samples), min(figure.samples), max(figure.samples)
    return [f"{value:.4g}" for value in values]


if __name__ == "__main__":
    sys.exit(main())
