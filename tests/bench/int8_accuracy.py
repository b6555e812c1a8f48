"""What 8 bits leave of networks with their real ImageNet weights, on photos.

    python tests/bench/int8_accuracy.py [--models mobilenet_v2] [--every 3] [--batches 5]

All photos of scikit-image and scikit-learn in crops and flips, in two halves of different photos:
calibrated on one half and tested on the other, then the other way round, so that every photo is
tested and none was calibrated on. Writes results/int8_accuracy_<date>.csv: top-1 agreement with
the float32 model and the signal-to-noise ratio of the logits, for plain min-max ranges, for every
method and for the corrections. Last the small ResNet of examples/07_mnist_int8.py on held-out
digits, at every precision, calibrated by entropy.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
import time
from collections.abc import Iterator, Mapping
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
from tqdm import tqdm  # noqa: E402

import torch2rt  # noqa: E402
from torch2rt.bench.machine import machine_card  # noqa: E402
from torch2rt.build.timing_cache import TimingCache  # noqa: E402

MODELS = {
    "mobilenet_v2": lambda: mobilenet()[0],
    "efficientnet_lite0": lambda: bench_models.efficientnet_lite0()[0],
}
MNIST = "mnist_small_resnet"
METHODS = ("minmax", "entropy", "entropy_doubling", "percentile", "mse")
ALL = {"*": "int8"}  # whatever is faster
RANGES_ONLY: tuple[str, ...] = ()
CORRECTIONS: dict[str, tuple[str, ...]] = {
    "percentile, rounding (default)": ("rounding",),
    "percentile, biases": ("bias_correction",),
    "percentile, equalized, rounding": ("equalize", "rounding"),
}
_BATCH = 10


@dataclass(frozen=True)
class Row:
    """One way to quantize one network, over all photos."""

    model: str
    quantized_by: str
    images: int
    agreement: float
    sqnr_db: float | None
    convert_s: float | None
    accuracy: float | None = None


@dataclass
class Half:
    """One half of the photos: what is tested, and what is calibrated on."""

    images: torch.Tensor
    wanted: torch.Tensor
    calibration: list[torch.Tensor]


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[*MODELS, MNIST], choices=[*MODELS, MNIST])
    parser.add_argument("--every", type=int, default=1, help="tests every n-th crop")
    parser.add_argument("--batches", type=int, help="calibrates on so many batches of 10")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    target = arguments.out or (
        HERE / "results" / f"int8_accuracy_{date.today().isoformat()}.csv"
    )
    rows: list[Row] = []
    for name in arguments.models:
        if name == MNIST:
            found = digits()
        else:
            model = MODELS[name]().to(arguments.device)
            found = measure(name, model, arguments.every, arguments.batches)
        for row in found:
            rows.append(row)
            print(f"{row.model:<20} {row.quantized_by:<32} agreement {row.agreement:.2%}  "
                  f"SQNR {row.sqnr_db} dB, accuracy {row.accuracy}", flush=True)
            write(target, rows)


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
        yield Row(MNIST, one.name, one.total, agreement, None, None, one.accuracy)


def measure(name: str, model: nn.Module, every: int, batches: int | None) -> Iterator[Row]:
    """Rows of one network."""
    cache = TimingCache()
    fast: dict[str, Any] = {
        "timing_cache": cache, "progress": False, "tune_budget_s": 0.0, "verify": False,
    }
    example = photos.fold_samples(0)[:1]
    exact = torch2rt.convert(model, example, **fast)
    halves = [half(exact, fold, every, batches) for fold in (0, 1)]
    tables: dict[int, Any] = {}
    for label, options in contenders():
        start = time.perf_counter()
        engines = []
        for index, one in enumerate(halves):
            given: dict[str, Any] = {"calibration": one.calibration, **options}
            if index in tables and options["quantize_with"] == RANGES_ONLY:
                given = {"calibration": tables[index].with_method(options["calibration_method"])}
            engines.append(torch2rt.convert(model, example, precision=ALL, **given, **fast))
            tables[index] = engines[-1].calibration_table
        elapsed = time.perf_counter() - start
        got = torch.cat([run(e, one.images) for e, one in zip(engines, halves, strict=True)])
        yield row(name, label, got, torch.cat([one.wanted for one in halves]), elapsed)


def contenders() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names, and the options of `convert`; ranges alone first, whose histograms are shared."""
    for method in METHODS:
        yield method, {"calibration_method": method, "quantize_with": RANGES_ONLY}
    for label, corrections in CORRECTIONS.items():
        yield label, {"calibration_method": "percentile", "quantize_with": corrections}


def half(exact: nn.Module, fold: int, every: int, batches: int | None) -> Half:
    """The photos of a fold are tested, those of the other calibrate."""
    images = photos.fold_samples(fold)[::every]
    calibration = photos.calibration_batches(1 - fold, _BATCH)[:batches]
    return Half(images, run(exact, images), calibration)


def run(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits, image by image, so that one plan serves."""
    with torch.no_grad():
        return torch.cat([model(image).cpu() for image in tqdm(images.split(1), leave=False)])


def row(name: str, label: str, got: torch.Tensor, want: torch.Tensor, elapsed: float) -> Row:
    """Agreement and SQNR over all photos."""
    agreement = float((got.argmax(1) == want.argmax(1)).double().mean())
    noise = float((got.double() - want.double()).square().sum())
    sqnr_db = 10 * float(np.log10(float(want.double().square().sum()) / max(noise, 1e-300)))
    return Row(name, label, len(want), round(agreement, 4), round(sqnr_db, 2), round(elapsed, 1))


def write(path: Path, rows: list[Row]) -> None:
    """The rows so far, under the machine card."""
    with path.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(one) for one in rows)


if __name__ == "__main__":
    main()
