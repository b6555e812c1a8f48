"""Times our CUDA C++ convolutions on layers of known networks, beside what memory allows.

    python tests/bench/cuda_convolutions.py --out results/cuda_convolutions.csv [--only "stem"]

``--rivals`` times the tactics of libraries and Triton as well.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from cuda_triton_tiles import bind, compile_all, prepare, weights_of
from tactic_testing import make_spec

from torch2rt.backends.backend import find_tactics
from torch2rt.backends.cuda.backend import CudaBackend
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Tactic
from torch2rt.layers.convolution import Convolution
from torch2rt.lazy_torch import torch

BUDGET_MS = 4.0
_BYTES_PER_US = 4.3e6


def cases() -> Iterator[tuple[str, LayerSpec]]:
    """Named layers in float16: stems, depthwise and grouped convolutions."""

    def conv(
        x: tuple[int, ...], k: int, r: int, stride: int = 1, groups: int = 1,
        epilogue: str = "clamp(add(i0,i1),0.0,6.0)",
    ) -> LayerSpec:
        half = torch.float16
        pad = r // 2 if r != stride else 0
        kind = Convolution((stride,) * 2, (pad,) * 2, (pad,) * 2, (1, 1), groups)
        inputs = [
            torch.empty(x, dtype=half, device="meta"),
            torch.empty(k, x[1] // groups, r, r, dtype=half, device="meta"),
            torch.empty(k, 1, 1, device="meta"),
        ]
        return make_spec(kind, inputs, epilogue, (1, 2))

    for batch in (1, 64):
        yield f"stem 7x7 64 b{batch}", conv((batch, 3, 224, 224), 64, 7, 2)
        yield f"stem 3x3 32 b{batch}", conv((batch, 3, 224, 224), 32, 3, 2)
        yield f"stem 4x4 96 b{batch}", conv((batch, 3, 224, 224), 96, 4, 4)
        yield f"stem vgg b{batch}", conv((batch, 3, 224, 224), 64, 3, 1)
        for c, size, stride in (
            (32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2),
            (384, 14, 1), (576, 14, 1), (576, 14, 2), (960, 7, 1),
        ):
            yield f"depthwise 3x3s{stride} {c} {size} b{batch}", conv(
                (batch, c, size, size), c, 3, stride, c)
        yield f"depthwise 5x5 240 28 b{batch}", conv((batch, 240, 28, 28), 240, 5, 1, 240)
        yield f"depthwise 5x5 672 14 b{batch}", conv((batch, 672, 14, 14), 672, 5, 1, 672)
        yield f"depthwise 7x7 96 56 b{batch}", conv((batch, 96, 56, 56), 96, 7, 1, 96)
        for c, size in ((128, 56), (256, 28), (512, 14), (1024, 7)):
            yield f"grouped 32 {c} {size} b{batch}", conv((batch, c, size, size), c, 3, 1, 32)


def candidates(spec: LayerSpec, rivals: bool) -> list[tuple[Tactic, LayerSpec]]:
    """Tactics that take a layer, with the layouts they want."""
    found = []
    for tactic in find_tactics("torch2rt.backends.cuda.tactics").values():
        is_ours = ".cuda." in tactic.name
        if spec.kind.name in tactic.kinds and (is_ours or rivals) and not tactic.supports(spec):
            for choice in tactic.layouts(spec):
                chosen = spec.with_layouts(choice)
                guess = tactic.estimate_us(chosen)
                if guess is None or guess < 3000:
                    found.append((tactic, chosen))
    return found


def main() -> None:
    """Parse arguments, compile in parallel, time, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--rivals", action="store_true")
    arguments = parser.parse_args()
    backend = CudaBackend(0)
    with backend.building(), Path(arguments.out).open("w", newline="") as file:
        rows = [
            (name, tactic, chosen)
            for name, spec in cases() if arguments.only in name
            for tactic, chosen in candidates(spec, arguments.rivals)
        ]
        blobs = compile_all(rows, os.cpu_count() or 2)
        writer = csv.writer(file)
        writer.writerow(["layer", "tactic", "time_us", "guess_us", "floor_us"])
        for layer in dict.fromkeys(name for name, *_ in rows):
            writer.writerows(time_layer(backend, layer, rows, blobs))
            file.flush()


def time_layer(
    backend: CudaBackend, layer: str, rows: list[tuple[str, Tactic, LayerSpec]],
    blobs: dict[str, Any],
) -> list[tuple[Any, ...]]:
    """Every candidate's time, the fastest first; the floor is the time of moving all bytes."""
    keep: list[Any] = []
    made = []
    floor_us = math.inf
    for name, tactic, spec in rows:
        if name != layer:
            continue
        floor_us = sum(t.size_bytes for t in (*spec.inputs, *spec.outputs)) / _BYTES_PER_US
        prepared = prepare(tactic, spec, weights_of(spec, blobs))
        if isinstance(prepared, Prepared):
            made.append((tactic, spec, bind(backend, prepared, spec, keep)))
    times = backend.time_calls_us([calls for *_, calls in made], BUDGET_MS)
    table = sorted(
        (time, f"{tactic.name} {spec.inputs[0].layout.value}", tactic.estimate_us(spec) or 0.0)
        for time, (tactic, spec, _) in zip(times, made, strict=True)
    )
    best = ", ".join(
        f"{name.split('.', 1)[1]} {time:.1f} ({guess:.1f})" for time, name, guess in table[:6]
    )
    print(f"{layer}: floor {floor_us:.1f}: {best}", flush=True)
    return [
        (layer, name, f"{time:.2f}", f"{guess:.2f}", f"{floor_us:.2f}")
        for time, name, guess in table
    ]


if __name__ == "__main__":
    main()
