"""What a plugin's step costs beside its own code: on a CPU, and inside a CUDA graph.

    python tests/bench/plugin_bars.py

Writes results/plugin_<date>.csv: one row per figure, with the bar it is held against. On a GPU a
chain of kernels as plugins is compared with the same kernels in a graph captured by hand.
"""

from __future__ import annotations

import csv
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import torch2rt
from torch2rt.bench.machine import machine_card
from torch2rt.engine.context import Context
from torch2rt.plugin import CudaKernel, ceil_div, count

HERE = Path(__file__).parent
# Kernels in a chain: what a call costs by itself goes with the difference.
CHAINS = (16, 80)
SIZE = 1 << 21
ROUNDS = 20

SOURCE = r"""
extern "C" __global__ void leaky(const float* x, float* y, int n, float slope) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] > 0.0f ? x[i] : slope * x[i];
}"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: the median of ``samples`` in ``unit``, and its bar."""

    name: str
    unit: str
    samples: list[float]
    bar: float


def main() -> int:
    figures = steps_on_cpu()
    if torch.cuda.is_available():
        figures += chains_on_gpu()
    target = HERE / "results" / f"plugin_{date.today().isoformat()}.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file)
        writer.writerow(["figure", "unit", "median", "least", "most", "count", "bar"])
        for f in figures:
            row = [statistics.median(f.samples), min(f.samples), max(f.samples)]
            writer.writerow([f.name, f.unit, *(f"{v:.4g}" for v in row), len(f.samples), f.bar])
            sys.stdout.write(f"{f.name:<50} {row[0]:9.3f} {f.unit:<6} bar {f.bar}\n")
    return 0


# ---- CPU ---------------------------------------------------------------------------------------


def doubled(inputs: Sequence[Any], outputs: Sequence[Any], attributes: object) -> None:
    """What stands for a compiled function: next to nothing."""
    np.multiply(inputs[0], 2.0, out=outputs[0])


class Called(nn.Module):
    """A model that is one function."""

    def __init__(self, function: Callable[..., Any], times: int = 1) -> None:
        super().__init__()
        self.function, self.times = function, times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The function, again and again."""
        for _ in range(self.times):
            x = self.function(x)
        return x


def steps_on_cpu() -> list[Figure]:
    """A step of a plan against its function called on the same arrays."""
    function = torch2rt.plugin("bench::doubled", cpu=doubled)(lambda x: x * 2)
    x, y = torch.randn(4, 8), torch.empty(4, 8)
    with tempfile.TemporaryDirectory() as folder:
        rt = torch2rt.convert(
            Called(function), x, timing_cache=Path(folder, "t.jsonl"), progress=False
        )
    context = Context(rt.engine.runnable(((4, 8),)).executable)
    for movers, tensor in zip(
        (context.movers("input", ["x"]), context.movers("output", ["output"])), (x, y), strict=True
    ):
        movers[0](tensor.data_ptr())
    (step, arguments), = context.calls_per_step[0]
    inputs, outputs = [x.numpy()], [y.numpy()]
    over: list[float] = []
    for _ in range(ROUNDS):
        own_us = batch_us(lambda: doubled(inputs, outputs, None))
        over.append(batch_us(lambda: step(*arguments)) - own_us)
    return [Figure("step of a plugin over its function of arrays", "us", over, 5)]


def batch_us(function: Callable[[], object]) -> float:
    """Microseconds per call, over 2000 calls."""
    start = time.perf_counter()
    for _ in range(2000):
        function()
    return (time.perf_counter() - start) / 2000 * 1e6


# ---- GPU ---------------------------------------------------------------------------------------


def chains_on_gpu() -> list[Figure]:
    """Kernels as plugins of an engine against the same kernels in a graph of our own."""
    function = torch2rt.plugin("bench::leaky", cuda=CudaKernel(
        SOURCE, "leaky", grid=lambda s, a: ceil_div(count(s.outputs[0]), 256),
        numbers=lambda s, a: [count(s.outputs[0]), 0.5],
    ))(lambda x: torch.where(x > 0, x, 0.5 * x))
    x = torch.randn(2, SIZE // 2, device="cuda")
    engines, by_hand = [], [captured_chain(x, length) for length in CHAINS]
    for length in CHAINS:
        with tempfile.TemporaryDirectory() as folder:
            rt = torch2rt.convert(
                Called(function, length), x, progress=False, timing_cache=Path(folder, "t.jsonl")
            )
        engines.append(functools.partial(rt, x))
    for call in (*engines, *by_hand):
        for _ in range(5):
            call()
    engine_us, own_us = [], []
    for _ in range(ROUNDS):
        engine_us.append(_us_per_kernel(engines))
        own_us.append(_us_per_kernel(by_hand))
    over = [a - b for a, b in zip(engine_us, own_us, strict=True)]
    return [
        Figure("kernel in a graph captured by hand", "us", own_us, 0),
        Figure("kernel as a plugin of an engine", "us", engine_us, 0),
        Figure("plugin over its kernel, in a graph", "us", over, 0.1),
    ]


def _us_per_kernel(chains: Sequence[Callable[[], object]]) -> float:
    """What one kernel more takes, from a short chain and a long one."""
    short_us, long_us = (event_us(chain) for chain in chains)
    return (long_us - short_us) / (CHAINS[1] - CHAINS[0])


def captured_chain(x: torch.Tensor, length: int) -> Callable[[], object]:
    """A chain as a CUDA graph of CuPy's, on torch's current stream."""
    import cupy

    kernel = cupy.RawKernel(SOURCE, "leaky")
    arrays = [cupy.asarray(x), cupy.empty(SIZE, np.float32), cupy.empty(SIZE, np.float32)]
    stream = cupy.cuda.Stream(non_blocking=True)
    grid, block = (-(-SIZE // 256),), (256,)

    def enqueue() -> None:
        source = arrays[0]
        for number in range(length):
            target = arrays[1 + number % 2]
            kernel(grid, block, (source, target, np.int32(SIZE), np.float32(0.5)))
            source = target

    with stream:
        enqueue()
        stream.synchronize()
        stream.begin_capture()
        enqueue()
        graph = stream.end_capture()
    current = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)
    kept = (graph, arrays, kernel)  # the graph's nodes point into them
    return lambda: kept[0].launch(current)


def event_us(function: Callable[[], object]) -> float:
    """Microseconds of the GPU per call, over ten calls."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(10):
        function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e2


if __name__ == "__main__":
    sys.exit(main())
