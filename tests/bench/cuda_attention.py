"""Races all ways to compute attention, as a build does: checked, then timed in turns.

    python tests/bench/cuda_attention.py --out results/cuda_attention.csv [--only wgmma,cudnn]

The layers of ViT-B/16 and BERT-base at sequence 384, as the engine sees them: heads behind rows,
queries, keys and values in the rows of one packed product.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
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

BUDGET_MS = 40.0  # for all candidates of a layer
HEADS, FEATURES = 12, 64


def attention(
    batch: int, rows: int, mask: str = "", dtype: str = "float16", is_causal: bool = False
) -> LayerSpec:
    """A layer of a transformer of 768 features."""
    element = getattr(torch, dtype)
    tensors = [torch.empty(batch, rows, HEADS, FEATURES, dtype=element)] * 3
    if mask:
        tensors.append(torch.empty(batch, 1, 1, rows, dtype=getattr(torch, mask)))
    kind = Attention(FEATURES**-0.5, is_causal, bool(mask), False, True, True, True, True)
    if element is torch.float8_e4m3fn:  # scaled to its range, written for the product behind it
        kind = replace(kind, scale=kind.scale / 112**2)
        return make_spec(kind, tensors, "clamp(mul(i0,0.9),-448.0,448.0)", (), DType.FLOAT8_E4M3)
    return make_spec(kind, tensors)


def packed(spec: LayerSpec) -> LayerSpec:
    """With queries, keys and values in rows three times as long."""
    run = HEADS * FEATURES
    inputs = [operand.with_pitch(run, 3 * run) for operand in spec.inputs[:3]]
    return replace(spec, inputs=(*inputs, *spec.inputs[3:]))


def cases() -> Iterator[tuple[str, LayerSpec]]:
    """Name and layer."""
    yield "vit b1", attention(1, 197)
    yield "vit b64", attention(64, 197)
    yield "bert b1", attention(1, 384)
    yield "bert b32", attention(32, 384)
    yield "bert b1 bool mask", attention(1, 384, "bool")
    yield "bert b32 bool mask", attention(32, 384, "bool")
    yield "bert b32 added mask", attention(32, 384, "float16")
    yield "vit b64 bf16", attention(64, 197, dtype="bfloat16")
    yield "gpt b4 1024 causal", attention(4, 1024, is_causal=True)
    for name, batch, rows in (("vit b1", 1, 197), ("vit b64", 64, 197), ("bert b32", 32, 384)):
        yield f"{name} float8", attention(batch, rows, dtype="float8_e4m3fn")
    yield "bert b32 bool mask float8", attention(32, 384, "bool", "float8_e4m3fn")
    yield "gpt b4 1024 causal float8", attention(4, 1024, dtype="float8_e4m3fn", is_causal=True)


def main() -> None:
    """Race all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="parts of tactics' names, with commas")
    parser.add_argument("--layers", default="", help="part of layers' names")
    arguments = parser.parse_args()
    backend = CudaBackend(0)
    checker = Checker(backend)
    wanted = arguments.only.split(",")
    with arguments.out.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file)
        writer.writerow(["layer", "tactic", "time_us", "tflops", "gbytes_per_s", "failure"])
        for name, spec in cases():
            if arguments.layers not in name:
                continue
            with backend.building():
                tactics, _ = backend.candidates(spec)
                found = [
                    (tactic, packed(spec.with_layouts(choice))) for tactic in tactics
                    if any(part in tactic.name for part in wanted)
                    for choice in tactic.layouts(spec)
                    if tactic.takes_pitch(packed(spec.with_layouts(choice)))
                ]
            trial = Trial(backend, BlobWeights({}), BlobCache(), checker, BUDGET_MS)
            results = trial.run(found)
            flops = 4 * spec.inputs[0].element_count * spec.inputs[1].shape[1]
            moved = sum(operand.size_bytes for operand in (*spec.inputs, *spec.outputs))
            rows = sorted(zip(results, found, strict=True), key=lambda row: row[0][0])
            for (time_us, failure), (tactic, _) in rows:
                rate, gbytes = f"{flops / time_us / 1e6:.0f}", f"{moved / time_us / 1e3:.0f}"
                writer.writerow([name, tactic.name, f"{time_us:.2f}", rate, gbytes, failure[:200]])
                print(f"{name:20} {tactic.name:28} {time_us:8.2f} us {rate:>5} TFLOP/s "
                      f"{failure[:200]}", flush=True)
            file.flush()  # a run that is cut short keeps what it has


if __name__ == "__main__":
    main()
