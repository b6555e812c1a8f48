"""Races all ways to multiply large matrices, as a build does: checked, then timed in turns.

    python tests/bench/cuda_products.py --out results/cuda_products.csv [--only wgmma,cublaslt]

The products of ViT-B/16 at batch 64, BERT-base at 32 x 384, and 1x1 convolutions of ResNet-50.
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
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.lazy_torch import torch
from torch2rt.torch_values import constant_from_torch

BUDGET_MS = 30.0  # for all candidates of a layer
GELU, BIAS, RESIDUAL = "gelu(add(i0,i1))", "add(i0,i1)", "add(add(i0,i1),i2)"
RELU = "relu(add(i0,i1))"
RELU_RESIDUAL = "relu(add(add(i0,i1),i2))"


def product(rows: int, k: int, n: int, epilogue: str) -> tuple[LayerSpec, dict[str, object]]:
    """A linear layer in float16."""
    half = torch.float16
    tensors = [torch.empty(rows, k, dtype=half), torch.randn(n, k).mul(k**-0.5).to(half)]
    tensors.append(torch.randn(n))
    if "i2" in epilogue:
        tensors.append(torch.empty(rows, n, dtype=half))
    spec = make_spec(Matmul(transpose_b=True), tensors, epilogue, [1, 2])
    return spec, {f"c{i}": constant_from_torch(tensors[i])[0] for i in (1, 2)}


def pixels(side: int, c: int, k: int, epilogue: str) -> tuple[LayerSpec, dict[str, object]]:
    """A 1x1 convolution at batch 64."""
    half = torch.float16
    tensors = [torch.empty(64, c, side, side, dtype=half)]
    tensors += [torch.randn(k, c, 1, 1).mul(c**-0.5).to(half), torch.randn(k, 1, 1)]
    if "i2" in epilogue:
        tensors.append(torch.empty(64, k, side, side, dtype=half))
    kind = Convolution((1, 1), (0, 0), (0, 0), (1, 1))
    spec = make_spec(kind, tensors, epilogue, [1, 2])
    return spec, {f"c{i}": constant_from_torch(tensors[i])[0] for i in (1, 2)}


def cases() -> Iterator[tuple[str, tuple[LayerSpec, dict[str, object]]]]:
    """Name and layer."""
    for model, rows in (("vit b64", 12608), ("bert b32", 12288)):
        yield f"{model} fc1", product(rows, 768, 3072, GELU)
        yield f"{model} fc2", product(rows, 3072, 768, RESIDUAL)
        yield f"{model} qkv", product(rows, 768, 2304, BIAS)
        yield f"{model} proj", product(rows, 768, 768, RESIDUAL)
    yield "resnet 56 64-256", pixels(56, 64, 256, RELU_RESIDUAL)
    yield "resnet 28 512-128", pixels(28, 512, 128, RELU)
    yield "resnet 14 256-1024", pixels(14, 256, 1024, RELU_RESIDUAL)
    yield "resnet 7 2048-512", pixels(7, 2048, 512, RELU)


def main() -> None:
    """Race all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="parts of tactics' names, with commas")
    parser.add_argument("--layers", default="", help="part of layers' names")
    arguments = parser.parse_args()
    backend = CudaBackend(0)
    checker = Checker(backend)
    with arguments.out.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file)
        writer.writerow(["layer", "tactic", "time_us", "tflops", "failure"])
        for name, (spec, arrays) in cases():
            if arguments.layers not in name:
                continue
            with backend.building():
                tactics, _ = backend.candidates(spec)
                wanted = arguments.only.split(",")
                found = [
                    (tactic, spec.with_layouts(choice)) for tactic in tactics
                    if any(part in tactic.name for part in wanted)
                    for choice in tactic.layouts(spec)
                ]
            trial = Trial(backend, BlobWeights(arrays), BlobCache(), checker, BUDGET_MS)
            results = trial.run(found)
            flops = spec.kind.flops([_type(i) for i in spec.inputs[:2]], [_type(spec.outputs[0])])
            rows = sorted(zip(results, found, strict=True), key=lambda row: row[0][0])
            for place, ((time_us, failure), (tactic, _)) in enumerate(rows):
                rate = flops / time_us / 1e6
                writer.writerow([name, tactic.name, f"{time_us:.2f}", f"{rate:.0f}", failure])
                if place < 4 or failure or "wgmma" in tactic.name:
                    print(f"{name:20} {tactic.name:36} {time_us:8.2f} us {rate:5.0f} TFLOP/s "
                          f"{failure[:200]}", flush=True)
            file.flush()  # a run that is cut short keeps what it has


def _type(operand: object) -> object:
    return operand


if __name__ == "__main__":
    main()
