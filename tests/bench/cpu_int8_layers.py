"""Every layer of an int8 model on the CPU: our kernels of bytes, oneDNN's, and the peak.

    chrt -r 1 python tests/bench/cpu_int8_layers.py [--model resnet50] [--output x.csv]

Converts the model twice, with and without the tactics of `torch2rt.backends.cpu.vnni`, and profiles
the engines in turns; a time is the least of the turns' medians. The peak is that of a loop of
nothing but multiplications on all threads, so shares of it are what a layer leaves unused; layers
that leave out taps in the padding may come out a little above what the loop allows.
"""

import argparse
import csv
import math
import sys
import time
from datetime import date
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import torch2rt
from torch2rt.backends.buffer import address_of, aligned_bytes
from torch2rt.backends.cpu.backend import CpuBackend
from torch2rt.backends.cpu.jit import Function, address_of_kernel
from torch2rt.backends.cpu.jit.parallel import ParallelCall
from torch2rt.backends.cpu.onednn.openmp import set_threads
from torch2rt.bench.machine import machine_card
from torch2rt.inspect.profile import EngineProfile, profile_engine

HERE = Path(__file__).parent
SUMS, ROUNDS = 24, 200_000
COLUMNS = ("layer", "input", "output", "weights", "mmac", "onednn_us", "ours_us", "tactic",
           "gmac_per_s", "share_of_peak")  # fmt: skip


def multiplications() -> str:
    """A function that multiplies registers by registers."""
    kind, name = "<16 x i32>", "@llvm.x86.avx512.vpdpbusd.512"
    f = Function("multiplications", [("ptr", "data")], 16)
    factor = f.load(kind, "%data", 64)
    with f.loop(0, ROUNDS, [(kind, "zeroinitializer")] * SUMS) as loop:
        loop.updates += [
            f.value(f"call {kind} {name}({kind} {total}, {kind} {factor}, {kind} {factor})")
            for total in loop.carried
        ]
    for total in loop.results:
        f.effect(f'call void asm sideeffect "", "v"({kind} {total})')
    return f"{f.text}\ndeclare {kind} {name}({kind}, {kind}, {kind})\n"


def peak_gmac_per_s(threads: int) -> float:
    """Multiply-adds of bytes per second on all threads."""
    function = address_of_kernel("multiplications", multiplications)
    numbers = aligned_bytes(64).view(np.int64)
    assert address_of(numbers) % 64 == 0
    call = ParallelCall(function, threads, numbers, None)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return threads * ROUNDS * SUMS * 64 / min(times) / 1e9


def engine(model: torch.nn.Module, x: torch.Tensor, threads: int, ours: bool) -> torch2rt.Engine:
    """The int8 engine, with or without our kernels of bytes."""
    found = CpuBackend(threads).tactics
    kept = {name: tactic for name, tactic in found.items() if ours or ".vnni." not in name}
    samples = [(x * (0.8 + 0.05 * i)).roll(7 * i, -1) for i in range(8)]
    with mock.patch.object(CpuBackend, "tactics", kept):
        return torch2rt.convert(
            model, x, precision="int8", calibration=samples, device="cpu", threads=threads,
            progress=False,
        ).engine


def least_us(profiles: list[EngineProfile]) -> dict[str, float]:
    """Per layer the least time of several profiles."""
    return {
        step.layer: min(profile.steps[position].time_us for profile in profiles)
        for position, step in enumerate(profiles[0].steps)
    }


def rows(ours: torch2rt.Engine, theirs: torch2rt.Engine, x: torch.Tensor, peak: float) -> list[
    tuple[object, ...]
]:
    """The rows of the table, and one of all layers."""
    pair: tuple[list[EngineProfile], list[EngineProfile]] = ([], [])
    for _ in range(8):
        for made, profiles in zip((ours, theirs), pair, strict=True):
            profiles.append(profile_engine(made, [x.numpy()], rounds=40))
    our_us, their_us = least_us(pair[0]), least_us(pair[1])
    result: list[tuple[object, ...]] = []
    steps = ours.runnable((tuple(x.shape),)).executable.steps
    for step, timed in zip(steps, pair[0][0].steps, strict=True):
        spec, us = step.spec, our_us[timed.layer]
        is_product = spec.kind.name in ("convolution", "matmul")
        macs = math.prod(spec.outputs[0].shape) * math.prod(spec.inputs[1].shape[1:]) \
            if is_product else 0
        rate = macs / us / 1e3
        result.append((
            timed.layer, spec.inputs[0], spec.outputs[0], spec.inputs[1] if is_product else "",
            f"{macs / 1e6:.2f}", f"{their_us.get(timed.layer, math.nan):.1f}", f"{us:.1f}",
            timed.tactic, f"{rate:.0f}", f"{rate / peak:.2f}",
        ))
    whole = [min(profile.total_us for profile in profiles) for profiles in pair]
    result.append(("whole call", "", "", "", "", f"{whole[1]:.1f}", f"{whole[0]:.1f}", "", "", ""))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(HERE))
    import models

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    set_threads(args.threads)
    model, x = getattr(models, args.model)()
    made = [engine(model, x, args.threads, ours) for ours in (True, False)]
    peak = peak_gmac_per_s(args.threads)
    lines = rows(made[0], made[1], x, peak)
    name = f"cpu_int8_layers_{args.model}_{date.today().isoformat()}.csv"
    with (args.output or HERE / "results" / name).open("w", newline="") as file:
        for key, value in machine_card().facts.items():
            file.write(f"# {key}: {value}\n")
        file.write(f"# peak: {peak:.0f} GMAC/s on {args.threads} threads\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])
    return 0


if __name__ == "__main__":
    sys.exit(main())
