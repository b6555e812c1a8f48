"""Converts every model of the zoo at full size and writes what came of it as a table.

    python tests/support/zoo_sweep.py --workers 8 --threads 2 --output sweep.csv [model ...]

Each worker is a process that is given one model after the other; one that dies or hangs costs
its model a row that says so, and is replaced.
"""

import argparse
import collections
import csv
import itertools
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import zoo
from tqdm import tqdm

import torch2rt

MODEL_SECONDS = 240


@dataclass(frozen=True)
class Row:
    """What came of one model. ``error`` is the worst relative error of an output."""

    model: str
    status: str
    layers: int = 0
    steps: int = 0
    views: int = 0
    fallbacks: int = 0
    fallback_ops: str = ""
    torch_steps: int = 0
    torch_kinds: str = ""
    error: float = float("nan")
    arena_over_bound: float = float("nan")
    convert_seconds: float = float("nan")
    notes: str = ""


def measure(name: str, cache: str, threads: int) -> Row:
    """Convert one model. Whatever goes wrong becomes the row's status."""
    try:
        model, inputs = zoo.build(name)
        start = time.perf_counter()
        converted = torch2rt.convert(
            model, inputs, timing_cache=cache, threads=threads, progress=False
        )
    except Exception as error:  # the sweep goes on, and the row tells
        return Row(name, f"{type(error).__name__}: {error}"[:400])
    return describe(name, converted.engine, time.perf_counter() - start)


def describe(name: str, engine: torch2rt.Engine, convert_seconds: float) -> Row:
    """The row of a converted model."""
    (plan, *_) = engine.plans
    kinds = {layer.name: layer.kind.name for layer in engine.network.layers}
    through_torch = [
        kinds.get(step.layer, "reformat") for step in plan.steps if ".torch." in step.tactic
    ]
    fallbacks = [op for op, *_ in engine.report["fallbacks"]]
    return Row(
        model=name, status="ok", layers=len(engine.network.layers), steps=len(plan.steps),
        views=len(plan.viewed), fallbacks=len(fallbacks), fallback_ops=_counted(fallbacks),
        torch_steps=len(through_torch), torch_kinds=_counted(through_torch),
        error=float(f"{max(engine.report['verified'].values()):.2g}"),
        arena_over_bound=round(plan.arena_bytes / max(1, plan.live_bytes), 3),
        convert_seconds=round(convert_seconds, 1), notes="; ".join(engine.report["notes"])[:200],
    )


def _counted(names: list[str]) -> str:
    counts = collections.Counter(names).most_common()
    return " ".join(f"{name}*{count}" for name, count in counts)


def sweep(
    names: list[str], workers: int, threads: int, cache: str, journal: Path | None = None
) -> list[Row]:
    """A row per model, in the order of ``names``.

    Rows are added to ``journal`` as they come, and those it holds already are not made again.
    """
    rows = _rows_of(journal, names)
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        if name not in rows:
            waiting.put(name)
    with tqdm(total=len(names), initial=len(rows), desc="sweep", mininterval=10) as bar:

        def work() -> None:
            worker = Worker(threads, cache)
            while True:
                try:
                    name = waiting.get_nowait()
                except queue.Empty:
                    return worker.close()
                rows[name] = worker.measure(name)
                if journal is not None:
                    with journal.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(rows[name])) + "\n")
                bar.write(f"{name}: {rows[name].status[:150]}")
                bar.update()

        crew = [threading.Thread(target=work) for _ in range(workers)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    return [rows[name] for name in names]


def _rows_of(journal: Path | None, names: list[str]) -> dict[str, Row]:
    if journal is None or not journal.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in journal.read_text("utf-8").splitlines()]
    return {row.model: row for row in rows if row.model in names and row.status == "ok"}


class Worker:
    """A process that measures models, replaced when it dies or takes too long."""

    def __init__(self, threads: int, cache: str) -> None:
        self.command = [
            sys.executable, __file__, "--serve", "--threads", str(threads), "--cache", cache,
        ]
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env=self.environment,
        )

    def measure(self, name: str) -> Row:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], MODEL_SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return Row(**json.loads(line))
        code = self.close()
        self.process = self._start()
        reason = f"the process ended with {code}" if ready else f"over {MODEL_SECONDS} s"
        return Row(name, reason)

    def close(self) -> int:
        """End the process; its exit status."""
        code = self.process.poll()
        if code is None:
            self.process.kill()
        self.process.wait()
        return self.process.returncode


def serve(cache: str, threads: int) -> None:
    """A worker: names come in, rows go out, one line each."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # models and libraries print
    for line in sys.stdin:
        row = measure(line.strip(), cache, threads)
        replies.write(json.dumps(asdict(row)) + "\n")
        replies.flush()


def write_table(rows: list[Row], path: Path, threads: int) -> None:
    """The rows as CSV, below lines that tell what made them."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in _made_by(threads))
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _made_by(threads: int) -> list[str]:
    import timm
    import torchvision
    import transformers

    from torch2rt.backends.cpu.onednn import loader

    versions = {
        "torch": torch.__version__, "torchvision": torchvision.__version__,
        "timm": timm.__version__, "transformers": transformers.__version__,
        "oneDNN": ".".join(map(str, loader.version())), "numpy": np.__version__,
    }
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        cpu = next((line.split(":")[1].strip() for line in file if "model name" in line), "?")
    return [
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"{cpu}, {loader.effective_isa()}, {threads} threads a model, batch 1, fp32, "
        f"{time.strftime('%Y-%m-%d')}; other models were converted beside it",
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names of the zoo, all by default")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", default="", help="timing cache")
    parser.add_argument("--journal", type=Path, help="rows so far: a stopped sweep goes on")
    parser.add_argument("--output", type=Path, default=Path("sweep.csv"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    cache = options.cache or str(options.output.with_suffix(".timing.jsonl"))
    if options.serve:
        return serve(cache, options.threads)
    names = options.models or largest_first(list(zoo.FULL))
    rows = sweep(names, options.workers, options.threads, cache, options.journal)
    write_table(sorted(rows, key=lambda row: row.model), options.output, options.threads)


def largest_first(names: list[str]) -> list[str]:
    """Those known to take long at the front, so that no worker is left with one at the end."""
    long = (
        "regnet_y_128", "vit_h", "swin3d", "efficientnet_b7", "efficientnet_v2_l", "regnet_",
        "vit_l", "efficientnet_b6", "mvit", "convnext_large", "densenet201", "clip", "maxvit",
    )
    groups = itertools.chain(
        *([name for name in names if key in name] for key in long), names
    )
    return list(dict.fromkeys(groups))


if __name__ == "__main__":
    main()
