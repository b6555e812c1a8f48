"""What 8 bits leave of networks with their real ImageNet weights, on photos.

    python tests/bench/int8_accuracy.py [--models mobilenet_v2] [--every 3] [--batches 12]
        [--device cuda]

All photos of scikit-image and scikit-learn in crops and flips, in two halves: calibrated on one
half and tested on the other, then the other way round, so that every image is tested and none was
calibrated on. The halves are crops of the same photos; for some rows they are of other photos,
and one of them alone is tested, as calibration takes most of the time.
Writes results/int8_accuracy_<date>.csv: top-1 agreement with the float32 model and the
signal-to-noise ratio of the logits, for plain min-max ranges, for every method, for what is
corrected, and for the default, which leaves in float the layers that lose most; then the time of
engines at one image, on one thread or a GPU: the least of many runs, in turns. Last the small
ResNet of examples/07_mnist_int8.py on held-out digits, at every precision, calibrated by entropy.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent.parent / "examples")]

import models as bench_models  # noqa: E402
import photos  # noqa: E402
from imagenet_mobilenet import mobilenet  # noqa: E402
from torch import nn  # noqa: E402

import torch2rt  # noqa: E402
from torch2rt.bench.machine import machine_card  # noqa: E402
from torch2rt.build.timing_cache import TimingCache  # noqa: E402
from torch2rt.quantize.table import CalibrationTable  # noqa: E402

MODELS = {
    "mobilenet_v2": lambda: mobilenet()[0],
    "efficientnet_lite0": lambda: bench_models.efficientnet_lite0()[0],
}
MNIST = "mnist_small_resnet"
ALL = {"*": "int8"}
METHODS = ("minmax", "percentile", "mse", "entropy")  # plain, from the default's histograms
DEFAULT = "default"
_BATCH = 10
_ROUNDS, _RUNS = 12, 20


@dataclass(frozen=True)
class Row:
    """One way to quantize one network, over all photos."""

    model: str
    quantized_by: str
    images: int
    agreement: float | None = None
    sqnr_db: float | None = None
    convert_s: float | None = None
    layers_in_float: str = ""
    time_ms: float | None = None
    accuracy: float | None = None


@dataclass
class Half:
    """What is tested, and what is calibrated on."""

    images: torch.Tensor
    wanted: torch.Tensor
    calibration: list[torch.Tensor]


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[*MODELS, MNIST], choices=[*MODELS, MNIST])
    parser.add_argument("--every", type=int, default=1, help="tests every n-th image")
    parser.add_argument("--batches", type=int, help="calibrates on so many batches of 10")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--jobs", type=int, default=2, help="networks measured side by side, but for their times"
    )
    parser.add_argument("--no-times", action="store_true", help="measures no times")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    target = arguments.out or (
        HERE / "results" / f"int8_accuracy_{date.today().isoformat()}.csv"
    )
    rows: dict[str, list[Row]] = {name: [] for name in arguments.models}
    tables = {}
    jobs = arguments.jobs if arguments.device == "cpu" else 1
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (threads,)) as pool:
        waiting = {pool.submit(measured, name, arguments): name for name in arguments.models}
        for future in as_completed(waiting):
            rows[waiting[future]], tables[waiting[future]] = future.result()
            write(target, rows)
    for name, table in tables.items():
        if table is None or arguments.no_times:
            continue
        for row in times(name, MODELS[name]().to(arguments.device), table, arguments.device):
            rows[name].append(row)
            print(row, flush=True)
            write(target, rows)


def measured(
    name: str, arguments: argparse.Namespace
) -> tuple[list[Row], CalibrationTable | None]:
    """Rows of one network but for its times, and the table of the default."""
    torch.manual_seed(0)
    rows = []
    tables: dict[str, list[CalibrationTable]] = {}
    for row in digits() if name == MNIST else measure(name, arguments, tables):
        rows.append(row)
        print(row, flush=True)
    return rows, tables[DEFAULT][0] if tables else None


def digits() -> Iterator[Row]:
    """Rows of the example, as it trains and converts its network."""
    path = HERE.parent.parent / "examples" / "07_mnist_int8.py"
    spec = importlib.util.spec_from_file_location("mnist_int8", path)
    assert spec is not None
    assert spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    sys.modules["mnist_int8"] = example
    spec.loader.exec_module(example)
    train, test = example.digits()
    for one in example.compare(example.trained(train, example.EPOCHS), train, test, rounds=1):
        agreement = 1 - one.changed / one.total
        yield Row(MNIST, one.name, one.total, agreement, accuracy=one.accuracy)


def measure(
    name: str, arguments: argparse.Namespace, tables: dict[str, list[CalibrationTable]]
) -> Iterator[Row]:
    """Rows of one network; the tables of its halves, by what is quantized how."""
    model = MODELS[name]().to(arguments.device)
    fast: dict[str, Any] = {  # one thread does not wait for others where the machine is busy
        "timing_cache": TimingCache(), "progress": False, "tune_budget_s": 0.0, "verify": False,
        "threads": 1,
    }
    near = halves_of(model, arguments, fast, is_far=False)
    far = halves_of(model, arguments, fast, is_far=True)
    for label, options in contenders():
        start = time.perf_counter()
        engines, halves = [], far if options.get("is_far") else near
        for index, one in enumerate(halves):
            given = tables[options["of"]][index] if "of" in options else None
            engines.append(torch2rt.convert(
                model, one.images[:1], precision=options.get("precision", ALL),
                calibration=options["change"](given) if given is not None else one.calibration,
                **fast,
            ))
        tables[label] = [engine.calibration_table for engine in engines]
        elapsed = time.perf_counter() - start
        got = torch.cat([run(e, one.images) for e, one in zip(engines, halves, strict=True)])
        wanted = torch.cat([one.wanted for one in halves])
        counts = [str(len(engine.engine.report.get("floats", {}))) for engine in engines]
        yield row(name, label, got, wanted, elapsed, " and ".join(counts))


def contenders() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names, and how a network is converted; ``of`` names one whose tables are used, changed."""
    yield DEFAULT, {"precision": "int8"}
    yield "default, all in 8 bits", {
        "of": DEFAULT, "change": lambda table: dataclasses.replace(table, floats={}),
    }
    for method in METHODS:
        yield method, {"of": DEFAULT, "change": _by(method)}
    far = f"{DEFAULT}, other photos"
    yield far, {"precision": "int8", "is_far": True}
    yield "minmax, other photos", {"of": far, "change": _by("minmax"), "is_far": True}


def _by(method: str) -> Callable[[CalibrationTable], CalibrationTable]:
    """What makes of a table that of a method, with nothing corrected."""
    return lambda table: table.with_method(method)


def halves_of(
    model: nn.Module, arguments: argparse.Namespace, fast: dict[str, Any], *, is_far: bool
) -> list[Half]:
    """Both halves: every second crop of each photo and the other ones; or one, of other photos."""
    images = torch.stack([photos.samples(photo) for fold in photos.FOLDS for photo in fold])
    count = len(photos.FOLDS[0])
    near, far = (images[:, ::2], images[:, 1::2]), (images[:count], images[count:])
    parts = [part.flatten(0, 1) for part in (far if is_far else near)]
    pairs = [parts[::-1]] if is_far else [parts, parts[::-1]]
    exact = torch2rt.convert(model, parts[0][:1].to(arguments.device), **fast)
    halves = []
    for tested, others in pairs:
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
        some = tested[:: arguments.every].to(arguments.device)
        halves.append(Half(
            some, run(exact, some), list(others[order].split(_BATCH))[: arguments.batches]
        ))
    return halves


def times(name: str, model: nn.Module, table: CalibrationTable, device: str) -> Iterator[Row]:
    """The time of engines as users get them: floats, the default, and all in 8 bits."""
    example = photos.samples(photos.FOLDS[0][0])[:1].to(device)
    cache = TimingCache()
    everywhere = dataclasses.replace(table, floats={})
    floats = ("fp32", "fp16") if example.is_cuda else ("fp32",)
    given: dict[str, dict[str, Any]] = {
        **{precision: {"precision": precision} for precision in floats},
        DEFAULT: {"precision": "int8", "calibration": table},
        "default, no layer kept in float": {"precision": "int8", "calibration": everywhere},
    }
    engines = {
        label: torch2rt.convert(
            model, example, timing_cache=cache, progress=False, threads=1, **options
        )
        for label, options in given.items()
    }
    least = dict.fromkeys(engines, float("inf"))
    with torch.no_grad():
        for _ in range(_ROUNDS):
            for label, engine in engines.items():
                for _ in range(_RUNS):
                    start = time.perf_counter()
                    engine(example)
                    if example.is_cuda:
                        torch.cuda.synchronize(example.device)
                    least[label] = min(least[label], time.perf_counter() - start)
    for label, seconds in least.items():
        count = len(engines[label].engine.report.get("floats", {}))
        yield Row(
            name, f"time, {label}", 1, time_ms=round(1e3 * seconds, 3), layers_in_float=str(count)
        )


def run(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits, image by image, so that one plan serves."""
    with torch.no_grad():
        return torch.cat([model(image).cpu() for image in images.split(1)])


def row(
    name: str, label: str, got: torch.Tensor, want: torch.Tensor, elapsed: float, floats: str
) -> Row:
    """Agreement and SQNR over all photos."""
    agreement = float((got.argmax(1) == want.argmax(1)).double().mean())
    noise = float((got.double() - want.double()).square().sum())
    sqnr_db = 10 * float(np.log10(float(want.double().square().sum()) / max(noise, 1e-300)))
    return Row(
        name, label, len(want), round(agreement, 4), round(sqnr_db, 2), round(elapsed, 1), floats
    )


def write(path: Path, rows: dict[str, list[Row]]) -> None:
    """The rows so far, by network, under the machine card."""
    with path.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(one) for found in rows.values() for one in found)


if __name__ == "__main__":
    main()
