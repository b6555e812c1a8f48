"""The CUDA table: our engine against torch on the models and batches of the bars.

    python tests/bench/cuda_bench.py [--models resnet50,vit_b_16] [--batches 1,64]
        [--contenders torch2rt,eager,graph,compile,max_autotune] [--precision fp16]

Everything runs in this one process, to be quick on a borrowed GPU: per row all contenders are
built and checked against the model in float64, then timed in turns. A contender that fails is a
row that says why. The CSV is written after every row; rows measured again replace theirs.
`torch2rt bench --device cuda` does the same in a process for each contender.
"""

from __future__ import annotations

import argparse
import copy
import gc
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path

import cuda_models
import torch

from torch2rt.bench.contenders import BuildRequest, Contender, load_contender, refusal
from torch2rt.bench.contenders.adapter import cast_loaded
from torch2rt.bench.csv_file import write_result
from torch2rt.bench.gpu_turn import run_gpu_turn
from torch2rt.bench.machine import library_version, machine_card
from torch2rt.bench.options import TOLERANCES
from torch2rt.bench.result import (
    FAILED,
    OK,
    WRONG,
    BenchResult,
    BenchRow,
    with_error_ratios,
    with_ratios,
)
from torch2rt.bench.source import LoadedModel, split_inputs
from torch2rt.bench.statistics import median, summarise
from torch2rt.bench.values import Array, flat_arrays, relative_error
from torch2rt.bench.worker import GPU_WARM_UP_CALLS, _one_line

HERE = Path(__file__).parent
BATCHES = {
    "resnet50": (1, 64, 256), "mobilenet_v2": (1, 64), "googlenet": (1, 64), "vit_b_16": (1, 64),
    "bert_base": (1, 32),
}
# Milliseconds per call in fp16 that we want on an H200.
BARS_MS = {
    ("resnet50", 1): 0.33, ("resnet50", 64): 64 / 38.0, ("resnet50", 256): 256 / 40.0,
    ("mobilenet_v2", 1): 0.25, ("mobilenet_v2", 64): 64 / 75.0,
    ("googlenet", 1): 0.25, ("googlenet", 64): 64 / 65.0,
    ("vit_b_16", 1): 0.45, ("vit_b_16", 64): 64 / 13.0,
    ("bert_base", 1): 0.65, ("bert_base", 32): 32 / 6.8,
}


@dataclass
class Entrant:
    """One variant of one contender on one row."""

    contender: Contender
    row: BenchRow
    call: Callable[[], object] | None = None
    rounds_ms: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)


def main() -> int:
    args = _arguments()
    started = time.perf_counter()
    card = machine_card()
    for line in card.lines():
        say(line)
    for model, batch in _rows(args):
        gc.collect()
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        rows, rounds_ms = measure(model, batch, args)
        write_result(BenchResult(tuple(rows), card, rounds_ms), args.out)
        say(f"-- {model} b{batch} done after {time.perf_counter() - started:.0f} s in all")
    return 0


def measure(
    model: str, batch: int, args: argparse.Namespace
) -> tuple[list[BenchRow], dict[tuple[str, str], tuple[float, ...]]]:
    """All contenders on one model and batch: the quickest variant of each is its row."""
    module, inputs = cuda_models.make(model, batch)
    loaded = LoadedModel(module, *split_inputs(inputs))
    reference = run_in_float64(loaded, args.device)
    entrants = [e for name in args.contenders for e in enter(name, model, batch, args)]
    for entrant in entrants:
        if entrant.row.status == OK:
            build(entrant, loaded, reference, args)
    race([entrant for entrant in entrants if entrant.call is not None], args)
    best: dict[str, Entrant] = {}
    for entrant in entrants:
        name = entrant.row.contender
        if name not in best or _time_ms(entrant) < _time_ms(best[name]):
            best[name] = entrant
    rounds = {name: tuple(entrant.rounds_ms) for name, entrant in best.items()}
    rows = with_ratios(with_error_ratios([_finished(e) for e in best.values()]), rounds)
    for row in rows:
        say(_line(row))
    return rows, {(args.precision, name): times for name, times in rounds.items()}


def enter(name: str, model: str, batch: int, args: argparse.Namespace) -> list[Entrant]:
    """One entrant per variant of a contender."""
    contender = load_contender(name)
    refused = refusal(contender, args.precision, args.device)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = BenchRow(model, batch, args.precision, name, contender.is_peer, measured_at=now)
    if refused is not None:
        return [Entrant(contender, replace(row, status=refused.status, notes=refused.reason))]
    variants = contender.variants_on(args.device)[args.precision]
    if not model.startswith(("resnet", "mobilenet", "googlenet")):
        variants = tuple(v for v in variants if v != "channels_last") or variants
    return [Entrant(contender, replace(row, variant=variant)) for variant in variants]


def build(
    entrant: Entrant, loaded: LoadedModel, reference: list[Array], args: argparse.Namespace
) -> None:
    """Build a contender on a copy of the model, and check its result."""
    folder = Path(tempfile.mkdtemp(prefix="torch2rt-bench-"))
    row = entrant.row
    request = BuildRequest(
        copy.deepcopy(loaded), row.variant, args.precision, args.device, args.threads, folder,
        args.timing_cache, args.tune_budget,
    )
    started = time.perf_counter()
    try:
        with entrant.contender.context():
            call = entrant.contender.build(request)
            for _ in range(1 + GPU_WARM_UP_CALLS):
                outputs = call()
            torch.cuda.synchronize()
            build_s = time.perf_counter() - started
            error = relative_error(flat_arrays(outputs), reference)
    # A contender may raise anything at all; its row says what, and the other rows go on.
    except Exception as error_:
        traceback.print_exc()
        entrant.row = replace(row, status=FAILED, notes=_one_line(error_))
    else:
        is_right = error <= TOLERANCES[args.precision]
        entrant.call = call if is_right else None
        packages = entrant.contender.packages
        entrant.row = replace(
            row, error=error, build_s=build_s, status=OK if is_right else WRONG,
            version=library_version(packages[0]) if packages else "",
        )
        say(f"   {row.contender} {row.variant}: built in {build_s:.1f} s, error {error:.2e}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def race(entrants: list[Entrant], args: argparse.Namespace) -> None:
    """Turns of all that were built, in shuffled order, round by round."""
    shuffler = random.Random(0)
    turn_s = args.seconds / args.rounds
    for number in range(args.rounds + 1):
        shuffler.shuffle(entrants)
        for entrant in entrants:
            if entrant.call is None:
                continue
            with entrant.contender.context():
                turn = run_gpu_turn(entrant.call, turn_s, 10, min(0.05, turn_s))
            if number:  # the first round warms up
                entrant.rounds_ms.append(turn.busy_ms)
                entrant.latencies_ms.append(turn.latency_ms)


def run_in_float64(loaded: LoadedModel, device: str) -> list[Array]:
    """The model's outputs in double precision."""
    double = cast_loaded(copy.deepcopy(loaded), torch.float64, device)
    with torch.inference_mode():
        return flat_arrays(double.model(*double.args, **double.kwargs))


def say(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _time_ms(entrant: Entrant) -> float:
    return median(entrant.rounds_ms) if entrant.rounds_ms else float("inf")


def _finished(entrant: Entrant) -> BenchRow:
    if not entrant.rounds_ms:
        return entrant.row
    found = summarise(entrant.rounds_ms)
    return replace(
        entrant.row, median_ms=found.median_ms, p10_ms=found.p10_ms, p90_ms=found.p90_ms,
        rounds=found.rounds, latency_ms=median(entrant.latencies_ms),
    )


def _line(row: BenchRow) -> str:
    head = f"{row.model} b{row.batch} {row.precision} {row.contender:<12} {row.variant:<16}"
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


def _rows(args: argparse.Namespace) -> list[tuple[str, int]]:
    return [
        (model, batch)
        for model in args.models
        for batch in (args.batches or BATCHES.get(model, (1,)))
    ]


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    def numbers(text: str) -> list[int]:
        return [int(number) for number in names(text)]

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--models", type=names, default=list(BATCHES))
    parser.add_argument("--batches", type=numbers, help="default: those of the bars")
    parser.add_argument(
        "--contenders", type=names, default=["torch2rt", "eager", "graph", "compile"],
        help="also max_autotune, which takes minutes to build",
    )
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=1.0, help="of calls per contender")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--timing-cache", type=Path, help="of torch2rt; default none")
    parser.add_argument("--tune-budget", type=float, help="of torch2rt, seconds per engine")
    default = HERE / "results" / f"cuda_{date.today().isoformat()}.csv"
    parser.add_argument("--out", type=Path, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
