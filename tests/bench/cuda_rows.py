"""Times our pools, reductions, norms and softmax beside what memory allows.

    python tests/bench/cuda_rows.py --out results/cuda_rows.csv [--only "layer_norm"]

Layers of known networks in float16. Large tensors do not fit the L2 cache; those of batch 1 are
warm. One kernel alone shows what it takes with the launch of the next overlapped by nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from cuda_testing import TACTICS, BlobWeights
from tactic_testing import make_spec

from torch2rt.backends.backend import find_tactics
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.backend import CudaBackend
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Refusal, Tactic
from torch2rt.layers.adaptive_pool import AdaptivePool
from torch2rt.layers.argreduce import ArgReduce
from torch2rt.layers.group_norm import GroupNorm
from torch2rt.layers.layer_norm import LayerNorm
from torch2rt.layers.pool import Pool
from torch2rt.layers.reduce import Reduce
from torch2rt.layers.softmax import Softmax
from torch2rt.lazy_torch import torch
from torch2rt.network.layer import LayerKind
from torch2rt.torch_values import constant_from_torch

BUDGET_MS = 10.0
_BYTES_PER_US = 4.3e6


def layer(kind: LayerKind, shape: tuple[int, ...], affine: tuple[int, ...] = ()) -> LayerSpec:
    """A layer of one float16 input; scale and shift of a size are constants in float32."""
    x = torch.empty(shape, dtype=torch.float16, device="meta")
    terms = [torch.empty(affine, device="meta")] * 2 if affine else []
    return make_spec(kind, [x, *terms], None, range(1, 1 + len(terms)))


def pool(mode: str, size: int, stride: int, before: int, after: int | None = None) -> Pool:
    """A square window."""
    after = before if after is None else after
    pairs = ((value, value) for value in (size, stride, before, after, 1))
    return Pool(mode, *pairs)


def cases() -> Iterator[LayerSpec]:
    """Layers of ResNet, GoogLeNet, MobileNet, ViT, BERT, Llama and Stable Diffusion."""
    for batch in (1, 64):
        yield layer(pool("max", 3, 2, 1), (batch, 64, 112, 112))
        yield layer(pool("max", 3, 2, 0, 1), (batch, 192, 56, 56))
        yield layer(pool("max", 3, 1, 1), (batch, 192, 28, 28))
        yield layer(pool("max", 3, 1, 1), (batch, 832, 7, 7))
        yield layer(pool("mean", 2, 2, 0), (batch, 128, 56, 56))
        yield layer(AdaptivePool("mean", (6, 6)), (batch, 256, 13, 13))
        for channels in (2048, 1280):
            yield layer(Reduce("mean", (2, 3), True), (batch, channels, 7, 7))
        yield layer(Reduce("mean", (2, 3), True), (batch, 96, 56, 56))
        for rows in (197, 384):
            yield layer(LayerNorm(1, 1e-6, True, True, True), (batch * rows, 768), (768,))
        yield layer(LayerNorm(1, 1e-6, True, True, True), (batch * 128, 4096), (4096,))
        yield layer(GroupNorm(32, 1e-5, True, True), (batch, 320, 64, 64), (320,))
        yield layer(Softmax(1), (batch, 1000))
        yield layer(Softmax(3), (batch, 12, 384, 384))
        yield layer(Softmax(1), (batch, 21, 128, 128))
        yield layer(ArgReduce("max", 1), (batch, 50257))
        yield layer(ArgReduce("max", 1), (batch, 21, 128, 128))
    yield layer(Reduce("sum", (0, 1)), (8192, 8192))
    yield layer(Reduce("max", (0,)), (65536, 512))


def ours() -> list[Tactic]:
    """Tactics in CUDA C++."""
    found = find_tactics(TACTICS).values()
    return [tactic for tactic in found if tactic.name.split(".")[1] == "cuda"]


def time_us(backend: CudaBackend, tactic: Tactic, spec: LayerSpec) -> float:
    """Median time of one run."""
    arrays = {
        name: constant_from_torch(torch.ones(operand.shape))[0]
        for name, operand in zip(spec.constants, spec.inputs, strict=True) if name is not None
    }
    with backend.building():
        prepared = tactic.prepare(spec, BlobWeights(arrays))
        memory = [backend.allocate(operand.size_bytes) for operand in (spec.inputs[0],
                                                                        spec.outputs[0])]
        x, y = (backend.address(part) for part in memory)
        workspace = backend.allocate(prepared.workspace_bytes + 256)
        affine = [Buffer(operand, constant=name) for operand, name in
                  zip(spec.inputs[1:], spec.constants[1:], strict=True)]
        calls = prepared.bind(
            [Buffer(spec.inputs[0], x), *affine], [Buffer(spec.outputs[0], y)],
            backend.address(workspace), backend.new_stream(),
        )
    (result,) = backend.time_calls_us([calls], BUDGET_MS)
    return result


def measured(backend: CudaBackend, tactic: Tactic, spec: LayerSpec) -> list[str]:
    """One row of the table."""
    taken = time_us(backend, tactic, spec)
    floor = (spec.inputs[0].size_bytes + spec.outputs[0].size_bytes) / _BYTES_PER_US
    text = f"{spec.inputs[0]} {spec.kind}"
    print(f"{tactic.name:26} {taken:8.2f} us, floor {floor:8.2f} us  {text}", flush=True)
    return [tactic.name, text, f"{taken:.2f}", f"{floor:.2f}", f"{floor / taken:.2f}"]


def main() -> None:
    """Time all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    backend = CudaBackend(0)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tactic", "layer", "time_us", "floor_us", "floor_fraction"])
        for spec in cases():
            for tactic in ours():
                if spec.kind.name not in tactic.kinds or arguments.only not in tactic.name:
                    continue
                if isinstance(tactic.supports(spec), Refusal):
                    continue
                for choice in tactic.layouts(spec):
                    writer.writerow(measured(backend, tactic, spec.with_layouts(choice)))


if __name__ == "__main__":
    main()
