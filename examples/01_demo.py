"""Converts the real ImageNet MobileNetV2, checks it on photos, times it, runs the saved file.

make demo        (or: python examples/01_demo.py)
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from imagenet_mobilenet import PHOTOS, mobilenet, photo
from torch import nn
from tqdm import tqdm

import torch2rt

ROUNDS = 40

# Run in a fresh process: loads the engine, runs it, and shows that torch was never imported.
TORCH_FREE = """
import sys, time
start = time.perf_counter()
import numpy as np
import torch2rt
engine = torch2rt.Engine.load(sys.argv[1])
outputs = engine.run({"x": np.load(sys.argv[2])})
elapsed = time.perf_counter() - start
assert "torch" not in sys.modules, "torch was imported"
np.save(sys.argv[3], outputs["output"])
print(f"{elapsed:.2f}")
"""


def main() -> None:
    torch.manual_seed(0)
    model, labels = mobilenet()
    images = {name: photo(name) for name in PHOTOS}
    first = next(iter(images.values()))
    engines = {p: torch2rt.convert(model, first, precision=p) for p in ("fp32", "bf16")}
    show_labels(model, engines, images, labels)
    show_speed(model, engines, first)
    run_saved_file(engines["fp32"], first)


def show_labels(
    model: nn.Module, engines: dict[str, nn.Module], images: dict[str, torch.Tensor],
    labels: list[str],
) -> None:
    """Top-3 labels of the model and of the engines, and how far the outputs are apart."""
    print("\nTop-3 labels")
    for name, image in images.items():
        with torch.no_grad():
            wanted = model(image)
        print(f"  {name}")
        print(f"    {'model':<12} {top3(wanted, labels)}")
        for precision, engine in engines.items():
            got = engine(image)
            difference = float((got - wanted).abs().max())
            print(f"    engine {precision:<5} {top3(got, labels)}")
            print(f"    {'':<12} largest difference of a logit: {difference:.2g}")


def top3(logits: torch.Tensor, labels: list[str]) -> str:
    probabilities, classes = logits.softmax(-1)[0].topk(3)
    pairs = zip(classes.tolist(), probabilities.tolist(), strict=True)
    return ", ".join(f"{labels[c]} {p:.0%}" for c, p in pairs)


def show_speed(model: nn.Module, engines: dict[str, nn.Module], image: torch.Tensor) -> None:
    """Medians of interleaved runs, batch 1."""
    contenders: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"eager fp32": model}
    if shutil.which("c++") or shutil.which("g++"):
        contenders["torch.compile fp32"] = compiled(model, image)
    contenders |= {f"engine {p}": engine for p, engine in engines.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.no_grad():
        for _ in tqdm(range(ROUNDS), desc="timing", leave=False):
            for name, run in contenders.items():
                run(image)  # so that each finds the caches as it left them
                start = time.perf_counter()
                run(image)
                times_ms[name].append((time.perf_counter() - start) * 1e3)
    eager = statistics.median(times_ms["eager fp32"])
    print(f"\nSpeed, batch 1, {torch.get_num_threads()} threads, median of {ROUNDS}")
    for name, samples in times_ms.items():
        median = statistics.median(samples)
        print(f"  {name:<20} {median:7.2f} ms   {eager / median:5.1f}x eager")


def compiled(model: nn.Module, image: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch.compile with freezing, compiled now."""
    from torch._inductor import config

    config.freezing = True
    run = torch.compile(model)
    for _ in tqdm(range(2), desc="torch.compile", leave=False):
        with torch.no_grad():
            run(image)
    return run


def run_saved_file(engine: torch2rt.RTModule, image: torch.Tensor) -> None:
    """Save, then load and run in a process that has no torch."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path, given, result = (Path(folder, n) for n in ("m.engine", "x.npy", "y.npy"))
        engine.save(path)
        np.save(given, image.numpy())
        command = [sys.executable, "-c", TORCH_FREE, str(path), str(given), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        same = bool((torch.from_numpy(np.load(result)) == engine(image)).all())
        print(f"\nSaved engine: {path.stat().st_size / 1e6:.1f} MB. A fresh process without torch "
              f"loaded and ran it in {done.stdout.strip()} s;\nits output is "
              f"{'the same, bit for bit' if same else 'DIFFERENT'}.")
        if not same:
            sys.exit(1)


if __name__ == "__main__":
    main()
