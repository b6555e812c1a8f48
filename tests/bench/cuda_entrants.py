"""One contender on one row of the CUDA table: built, checked against float64, timed, told."""

from __future__ import annotations

import copy
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cuda_models
import torch

from torch2rt.bench.contenders import BuildRequest, Contender, load_contender, refusal
from torch2rt.bench.contenders.adapter import cast_loaded
from torch2rt.bench.gpu_turn import run_gpu_turn
from torch2rt.bench.machine import library_version
from torch2rt.bench.options import TOLERANCES
from torch2rt.bench.result import FAILED, OK, WRONG, BenchRow
from torch2rt.bench.source import LoadedModel, split_inputs
from torch2rt.bench.statistics import median, summarise
from torch2rt.bench.values import Array, flat_arrays, relative_error
from torch2rt.bench.worker import GPU_WARM_UP_CALLS, _one_line
from torch2rt.inspect.report import step_rows

# Models that read images, for which eager has a channels_last variant.
IMAGE_MODELS = ("resnet", "mobilenet", "googlenet")
# Milliseconds per call in fp16 that we want on an H200.
BARS_MS = {
    ("resnet50", 1): 0.33, ("resnet50", 64): 64 / 38.0, ("resnet50", 256): 256 / 40.0,
    ("mobilenet_v2", 1): 0.25, ("mobilenet_v2", 64): 64 / 75.0,
    ("googlenet", 1): 0.25, ("googlenet", 64): 64 / 65.0,
    ("vit_b_16", 1): 0.45, ("vit_b_16", 64): 64 / 13.0,
    ("bert_base_no_mask", 1): 0.65, ("bert_base_no_mask", 32): 32 / 6.8,
}


@dataclass(frozen=True)
class Settings:
    """What all entrants of a run share. ``reports``: a folder for the reports of our engines."""

    device: str
    precision: str
    threads: int
    timing_cache: Path | None = None
    tune_budget_s: float | None = None
    reports: Path | None = None
    compile_workers: int | None = None
    all_variants: bool = True


@dataclass
class Entrant:
    """One variant of one contender on one row, in a precision that may not be the row's."""

    contender: Contender
    row: BenchRow
    precision: str
    call: Callable[[], object] | None = None
    rounds_ms: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def time_ms(self) -> float:
        """Median of the rounds, infinite without one."""
        return median(self.rounds_ms) if self.rounds_ms else float("inf")

    def finished(self) -> BenchRow:
        """The row with what was measured."""
        if not self.rounds_ms:
            return self.row
        found = summarise(self.rounds_ms)
        return replace(
            self.row, median_ms=found.median_ms, p10_ms=found.p10_ms, p90_ms=found.p90_ms,
            rounds=found.rounds, latency_ms=median(self.latencies_ms),
        )


class HostClock:
    """Stands in for a GPU's events where work is done when a call returns."""

    class Event:
        """A mark in time."""

        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            """Now."""
            self.at = time.perf_counter()

        def elapsed_time(self, later: HostClock.Event) -> float:
            """Milliseconds."""
            return (later.at - self.at) * 1e3

    @staticmethod
    def synchronize() -> None:
        """Nothing to wait for."""


def gpu_of(device: str) -> Any:
    """What `run_gpu_turn` times a device with."""
    return torch.cuda if device.startswith("cuda") else HostClock


def load(model: str, batch: int) -> LoadedModel:
    """A model and its inputs, the same in every process."""
    module, inputs = cuda_models.make(model, batch)
    return LoadedModel(module, *split_inputs(inputs))


def contender_of(name: str, settings: Settings) -> tuple[Contender, str]:
    """A contender and its precision: "compile", or "compile@fp16" beside others in fp8."""
    kind, _, precision = name.partition("@")
    return load_contender(kind), precision or settings.precision


def enter(name: str, model: str, batch: int, settings: Settings) -> list[Entrant]:
    """One entrant per variant of a contender, only the likely best unless all are wanted."""
    contender, precision = contender_of(name, settings)
    refused = refusal(contender, precision, settings.device)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = BenchRow(model, batch, settings.precision, name, contender.is_peer, measured_at=now)
    if refused is not None:
        row = replace(row, status=refused.status, notes=refused.reason)
        return [Entrant(contender, row, precision)]
    variants = contender.variants_on(settings.device)[precision]
    if not model.startswith(IMAGE_MODELS):
        variants = tuple(v for v in variants if v != "channels_last") or variants
    if not settings.all_variants:
        variants = variants[:1]
    return [
        Entrant(contender_of(name, settings)[0], replace(row, variant=v), precision)
        for v in variants
    ]


def build(
    entrant: Entrant, loaded: LoadedModel, reference: Callable[[], list[Array]],
    settings: Settings,
) -> list[str]:
    """Build a contender on a copy of the model, and check its result; lines that tell of it."""
    folder = Path(tempfile.mkdtemp(prefix="torch2rt-bench-"))
    row = entrant.row
    request = BuildRequest(
        copy.deepcopy(loaded), row.variant, entrant.precision, settings.device, settings.threads,
        folder, settings.timing_cache, settings.tune_budget_s,
    )
    gpu = gpu_of(settings.device)
    started = time.perf_counter()
    try:
        with entrant.contender.context():
            call = entrant.contender.build(request)
            for _ in range(1 + GPU_WARM_UP_CALLS):
                outputs = call()
            gpu.synchronize()
            build_s = time.perf_counter() - started
            error = relative_error(flat_arrays(outputs), reference())
    # A contender may raise anything at all; its row says what, and the other rows go on.
    except Exception as failure:
        traceback.print_exc()
        entrant.row = replace(row, status=FAILED, notes=_one_line(failure))
        return [f"{row.contender} {row.variant}: {entrant.row.notes}"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    is_right = error <= TOLERANCES[entrant.precision]
    entrant.call = call if is_right else None
    packages = entrant.contender.packages
    entrant.row = replace(
        row, error=error, build_s=build_s, status=OK if is_right else WRONG,
        version=library_version(packages[0]) if packages else "",
    )
    title = f"{row.model} b{row.batch} {row.contender} {row.variant}"
    lines = [f"{title}: built in {build_s:.1f} s, error {error:.2e}"]
    return lines + engine_lines(entrant, settings)


def engine_lines(entrant: Entrant, settings: Settings) -> list[str]:
    """What our engine is made of: its plan in short, and the report as a file."""
    module = getattr(entrant.contender, "module", None)
    if module is None:
        return []
    engine = module.engine
    plan = engine.plans[0]
    rows = step_rows(engine, plan)
    total_us = sum(row.time_us for row in rows)
    slowest = sorted(rows, key=lambda row: -row.time_us)[:5]
    if settings.reports is not None:
        settings.reports.mkdir(parents=True, exist_ok=True)
        row = entrant.row
        name = f"{row.model}_b{row.batch}_{entrant.precision}"
        module.report(settings.reports / f"{name}.json")
        module.report(settings.reports / f"{name}.txt")
    head = (
        f"  plan: {len(rows)} steps, {len(plan.viewed)} views, {plan.stream_count} stream(s), "
        f"{plan.untuned} untuned, sum of steps {total_us:.1f} us"
    )
    return [head] + [
        f"    {row.time_us:8.1f} us  {row.tactic:<36} "
        f"{'' if row.share is None else f'{row.share:4.0%} of peak '} {row.layer}"
        for row in slowest
    ]


def take_turn(entrant: Entrant, seconds: float, device: str) -> tuple[float, float]:
    """Milliseconds per call, and waiting for each."""
    assert entrant.call is not None
    with entrant.contender.context():
        turn = run_gpu_turn(entrant.call, seconds, 10, min(0.05, seconds), gpu_of(device))
    return turn.busy_ms, turn.latency_ms


def run_in_float64(loaded: LoadedModel, device: str) -> list[Array]:
    """The model's outputs in double precision."""
    double = cast_loaded(copy.deepcopy(loaded), torch.float64, device)
    with torch.inference_mode():
        return flat_arrays(double.model(*double.args, **double.kwargs))


def line_of(row: BenchRow) -> str:
    """A row as a line to read."""
    head = f"{row.model} b{row.batch} {row.precision} {row.contender:<13} {row.variant:<16}"
    if row.median_ms is None:
        error = "" if row.error is None else f" error {row.error:.2e}"
        return f"{head} {row.status}{error} {row.notes}"
    text = (
        f"{head} {row.median_ms:8.4f} ms ({row.p10_ms:.4f}-{row.p90_ms:.4f}) "
        f"{row.batch / row.median_ms:7.2f}k/s  latency {row.latency_ms:.4f} ms  "
        f"error {row.error:.2e}"
    )
    if row.error_over_eager is not None:
        text += f" ({row.error_over_eager:.2f}x eager's)"
    if row.ratio_to_best_peer is not None:
        text += f"  {row.ratio_to_best_peer:.3f} of the best peer"
    bar = BARS_MS.get((row.model, row.batch))
    if bar is not None and not row.is_peer and row.precision == "fp16":
        text += f"  bar {bar:.3f} ms: {'MET' if row.median_ms <= bar else 'MISSED'}"
    return text


_STARTED = time.perf_counter()


def say(text: str) -> None:
    """A line on standard output, at once, with the seconds since the start."""
    sys.stdout.write(f"[{time.perf_counter() - _STARTED:6.1f}] {text}\n")
    sys.stdout.flush()
