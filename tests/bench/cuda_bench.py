"""The CUDA table: our engine against torch on the models and batches of the bars.

    python tests/bench/cuda_bench.py [--models resnet50,vit_b_16] [--batches 1,64]
        [--contenders torch2rt,eager,graph,compile,max_autotune] [--precision fp16]
    python tests/bench/cuda_bench.py --parallel-builds --deadline-s 165 --reports DIR

By default everything runs in this one process, row by row: all contenders are built and checked
against the model in float64, then timed in turns. With ``--parallel-builds`` all rows are built
side by side in processes first. A contender that fails is a row that says why. The CSV is written
after every row; rows measured again replace theirs. `torch2rt bench --device cuda` does the same
for one model, in a process for each contender. What fp8 brings, beside fp16 in the same rounds:

    python tests/bench/cuda_bench.py --models vit_b_16,bert_base_no_mask --precision fp8
        --contenders torch2rt,torch2rt@fp16,scaled_mm,graph@fp16,compile@fp16
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import cuda_models
import torch
from cuda_entrants import (
    Entrant,
    Settings,
    build,
    enter,
    line_of,
    load,
    run_in_float64,
    say,
    take_turn,
)

from torch2rt.bench.csv_file import write_result
from torch2rt.bench.machine import MachineCard, machine_card
from torch2rt.bench.result import OK, BenchResult, BenchRow, with_error_ratios, with_ratios

HERE = Path(__file__).parent
# In the order of their importance.
ROWS = (
    ("resnet50", 64), ("resnet50", 1), ("resnet50", 256), ("vit_b_16", 64), ("vit_b_16", 1),
    ("bert_base_no_mask", 32), ("bert_base_no_mask", 1), ("mobilenet_v2", 64),
    ("mobilenet_v2", 1), ("googlenet", 64), ("googlenet", 1), ("bert_base", 32),
)
# Of a deadline, what the timed turns may take.
TIMED_S = 60.0


def main() -> int:
    started = time.monotonic()
    args = _arguments()
    settings = Settings(
        args.device, args.precision, args.threads, args.timing_cache, args.tune_budget,
        args.reports, args.compile_workers, all_variants=not args.parallel_builds,
    )
    card = machine_card()
    for line in card.lines():
        say(line)
    rows = _rows(args)
    if args.parallel_builds:
        _run_in_parallel(rows, args, settings, card, started + args.deadline_s)
    else:
        if args.models_file:
            from cuda_parallel import use_models

            use_models(args.models_file)
        for model, batch in rows:
            _run_row(model, batch, args, settings, card)
    return 0


def _run_row(
    model: str, batch: int, args: argparse.Namespace, settings: Settings, card: MachineCard
) -> None:
    """Build and time all contenders of a row in this process."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    loaded = load(model, batch)
    reference = run_in_float64(loaded, settings.device)
    entrants = [e for name in args.contenders for e in enter(name, model, batch, settings)]
    for entrant in entrants:
        if entrant.row.status == OK:
            for line in build(entrant, loaded, lambda: reference, settings):
                say(line)
    running = [entrant for entrant in entrants if entrant.call is not None]
    shuffler = random.Random(0)
    for number in range(args.rounds + 1):
        shuffler.shuffle(running)
        for entrant in running:
            busy_ms, latency_ms = take_turn(entrant, args.seconds / args.rounds, settings.device)
            if number:  # the first round warms up
                entrant.rounds_ms.append(busy_ms)
                entrant.latencies_ms.append(latency_ms)
    best: dict[str, Entrant] = {}
    for entrant in entrants:
        name = entrant.row.contender
        if name not in best or entrant.time_ms < best[name].time_ms:
            best[name] = entrant
    _write_row(best, [entrant.finished() for entrant in best.values()], card, args)


def _run_in_parallel(
    rows: Sequence[tuple[str, int]], args: argparse.Namespace, settings: Settings,
    card: MachineCard, deadline: float,
) -> None:
    """Build all rows side by side, then time them one after the other."""
    from cuda_parallel import build_in_parallel, make_jobs, time_row

    # Of the processes to come: each has a part of the machine.
    os.environ.update(
        OMP_NUM_THREADS=str(args.threads), MKL_NUM_THREADS=str(args.threads),
        TORCHINDUCTOR_COMPILE_THREADS="1",
    )
    with tempfile.TemporaryDirectory(prefix="torch2rt-bench-") as folder:
        jobs = make_jobs(rows, args.contenders, settings, Path(folder), args.models_file)
        board, workers = build_in_parallel(jobs, args.at_once, deadline - args.timed_s)
        try:
            for row in rows:
                entrants = time_row(board, row, args.contenders, args.rounds, args.seconds)
                finished = [
                    entrants[name].finished() if name in entrants
                    else board.row((*row, name), settings)
                    for name in args.contenders
                ]
                _write_row(entrants, finished, card, args)
        finally:
            for worker in workers:
                worker.end()


def _write_row(
    entrants: dict[str, Entrant], finished: list[BenchRow], card: MachineCard,
    args: argparse.Namespace,
) -> None:
    """Tell a row and write it to the file."""
    rounds = {name: tuple(entrant.rounds_ms) for name, entrant in entrants.items()}
    rows = with_ratios(with_error_ratios(finished), rounds)
    for row in rows:
        say(line_of(row))
    times = {(args.precision, name): rounds_ms for name, rounds_ms in rounds.items()}
    write_result(BenchResult(tuple(rows), card, times), args.out)
    say(f"-- {rows[0].model} b{rows[0].batch} is written to {args.out}")


def _rows(args: argparse.Namespace) -> list[tuple[str, int]]:
    models = args.models or list(dict.fromkeys(model for model, _ in ROWS))
    known = [row for row in ROWS if row[0] in models]
    if args.batches:
        return [(model, batch) for model in models for batch in args.batches]
    return known + [(model, 1) for model in models if model not in dict(ROWS)]


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    def numbers(text: str) -> list[int]:
        return [int(number) for number in names(text)]

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--models", type=names, help=f"of {', '.join(cuda_models.MODELS)}")
    parser.add_argument("--models-file", help="a file whose MODELS has others")
    parser.add_argument("--batches", type=numbers, help="default: those of the bars")
    parser.add_argument(
        "--contenders", type=names, default=["torch2rt", "eager", "graph", "compile"],
        help="also max_autotune, which takes minutes to build; compile@fp16 stays in fp16",
    )
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=1.0, help="of calls per contender")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--timing-cache", type=Path, help="of torch2rt; default none")
    parser.add_argument("--tune-budget", type=float, help="of torch2rt, seconds per engine")
    parser.add_argument("--reports", type=Path, help="folder for the reports of our engines")
    parser.add_argument("--parallel-builds", action="store_true", help="build all rows at once")
    parser.add_argument("--at-once", type=int, default=14, help="processes that build at a time")
    parser.add_argument("--compile-workers", type=int, help="of each of our engines")
    parser.add_argument("--deadline-s", type=float, default=600.0, help="with --parallel-builds")
    parser.add_argument("--timed-s", type=float, default=TIMED_S, help="of it, for timed turns")
    default = HERE / "results" / f"cuda_{date.today().isoformat()}.csv"
    parser.add_argument("--out", type=Path, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
