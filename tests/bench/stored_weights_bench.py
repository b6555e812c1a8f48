"""Linear layers with weights in 8 bits (and on a GPU in float8) beside float, by rows of input.

    python tests/bench/stored_weights_bench.py [--device cuda] [--width 4096] [--rows 1,128]

Writes results/stored_weights_<device>_<date>.csv: for a chain of wide layers, whose weights exceed
the caches, the time of a call per precision and number of rows, in interleaved rounds. ``ratio``
is the median over the rounds of the time beside that of float in the same round.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import nn

import torch2rt
from torch2rt.bench.machine import machine_card

HERE = Path(__file__).parent
ROWS = (1, 2, 4, 8, 16, 32, 128, 512, 4096)
PRECISIONS = {"cpu": ("fp32", "int8_weights"), "cuda": ("fp16", "int8_weights", "fp8")}
ROUNDS = 15
TURN_S = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=tuple(PRECISIONS))
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=numbers, default=ROWS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(*(
        module for _ in range(args.layers)
        for module in (nn.Linear(args.width, args.width), nn.ReLU())
    )).eval().to(args.device)
    target = HERE / "results" / f"stored_weights_{args.device}_{date.today().isoformat()}.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file)
        writer.writerow([
            "width", "layers", "rows", "precision", "median_us", "least_us", "ratio", "error",
            "tactic",
        ])
        for rows in args.rows:
            for line in measured(model, rows, args):
                writer.writerow([args.width, args.layers, rows, *line])
                sys.stdout.write(f"{rows:4} rows  {'  '.join(map(str, line))}\n")
    return 0


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def measured(model: nn.Module, rows: int, args: argparse.Namespace) -> list[list[object]]:
    """A line per precision: float first, which the others are compared with."""
    x = torch.randn(rows, args.width, device=args.device)
    with torch.no_grad():
        want = model(x)
    engines: dict[str, torch2rt.RTModule] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS[args.device]:
            engines[precision] = torch2rt.convert(
                model, x, precision=precision, threads=args.threads, progress=False,
                calibration=[x] if precision == "fp8" else None,
                timing_cache=Path(folder) / "times.jsonl",
            )
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            times[name].append(turn_us(lambda engine=engine: engine(x), args.device))
    first = next(iter(times.values()))
    lines: list[list[object]] = []
    for name, engine in engines.items():
        ratios = [own / other for own, other in zip(times[name], first, strict=True)]
        error = float((engine(x) - want).norm() / want.norm())
        tactics = {step.tactic for step in engine.engine.plans[0].steps if "matmul" in step.tactic}
        lines.append([
            name, f"{statistics.median(times[name]):.1f}", f"{min(times[name]):.1f}",
            f"{statistics.median(ratios):.3f}", f"{error:.2e}", " ".join(sorted(tactics)),
        ])
    return lines


def turn_us(call: Callable[[], object], device: str) -> float:
    """Microseconds of a call, over as many as fill a turn."""
    call()
    count, begin = 0, time.perf_counter()
    if device == "cuda":
        torch.cuda.synchronize()
        begin = time.perf_counter()
    while count < 3 or time.perf_counter() - begin < TURN_S:
        call()
        count += 1
        if device == "cuda" and count % 20 == 0:
            torch.cuda.synchronize()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count * 1e6


if __name__ == "__main__":
    sys.exit(main())
