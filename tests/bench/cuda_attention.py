"""Races all ways to attend, in float16 and over float8, as a build does: checked, then timed.

    python tests/bench/cuda_attention.py --out results/cuda_attention.csv [--layers vit]

Heads stand last, as projections leave them. Over float8 the result is float8 too, as the linear
layer behind it reads it; cuDNN takes float16 alone.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from cuda_testing import BlobWeights
from tactic_testing import make_spec

from torch2rt.backends.cuda.backend import CudaBackend
from torch2rt.backends.spec import LayerSpec
from torch2rt.bench.machine import machine_card
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.check import Checker
from torch2rt.build.trial import Trial
from torch2rt.layers.attention import Attention
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType

BUDGET_MS = 30.0  # for all candidates of a layer
DTYPES = {"float16": torch.float16, "float8": torch.float8_e4m3fn}


def layer(
    batch: int, rows: int, heads: int, features: int, dtype: str, is_causal: bool = False
) -> LayerSpec:
    """Attention of a sequence with itself."""
    x = torch.empty(batch, rows, heads, features, dtype=DTYPES[dtype])
    kind = Attention(features**-0.5, is_causal, False, False, True, True, True, True)
    if dtype == "float16":
        return make_spec(kind, [x] * 3)
    epilogue = "clamp(mul(i0,60.0),-448.0,448.0)"
    return make_spec(kind, [x] * 3, epilogue, (), DType.FLOAT8_E4M3)


def cases() -> Iterator[tuple[str, LayerSpec]]:
    """Name and layer."""
    for dtype in DTYPES:
        yield f"vit b1 {dtype}", layer(1, 197, 12, 64, dtype)
        yield f"vit b64 {dtype}", layer(64, 197, 12, 64, dtype)
        yield f"bert b32 384 {dtype}", layer(32, 384, 12, 64, dtype)
        yield f"llm b2 2048 causal {dtype}", layer(2, 2048, 32, 128, dtype, True)
        yield f"dit b4 4096 {dtype}", layer(4, 4096, 16, 64, dtype)


def main() -> None:
    """Race all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", default="", help="part of layers' names")
    arguments = parser.parse_args()
    backend = CudaBackend(0)
    checker = Checker(backend)
    with arguments.out.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file)
        writer.writerow(["layer", "tactic", "time_us", "tflops", "failure"])
        for name, spec in cases():
            if arguments.layers not in name:
                continue
            with backend.building():
                tactics, _ = backend.candidates(spec)
                found = [
                    (tactic, spec.with_layouts(choice)) for tactic in tactics if tactic.level > 0
                    for choice in tactic.layouts(spec)
                ]
            results = Trial(backend, BlobWeights({}), BlobCache(), checker, BUDGET_MS).run(found)
            flops = spec.kind.flops(spec.inputs, spec.outputs)
            rows = sorted(zip(results, found, strict=True), key=lambda row: row[0][0])
            for (time_us, failure), (tactic, _) in rows:
                rate = flops / time_us / 1e6
                writer.writerow([name, tactic.name, f"{time_us:.2f}", f"{rate:.0f}", failure])
                print(f"{name:26} {tactic.name:28} {time_us:8.2f} us {rate:5.0f} TFLOP/s "
                      f"{failure[:150]}", flush=True)
            file.flush()  # a run that is cut short keeps what it has


if __name__ == "__main__":
    main()
