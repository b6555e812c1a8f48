"""Times every tile of our Triton kernels on layers of known networks, beside the model's guess.

    python tests/bench/cuda_triton_tiles.py --out results/triton_tiles.csv [--only "b1 "]

The rows say how far `torch2rt.backends.cuda.triton.tiles` is off: tune it by them.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from tactic_testing import DictWeights, make_spec

from torch2rt.backends.backend import find_tactics
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.backend import CudaBackend
from torch2rt.backends.cuda.triton import tiles as triton_tiles
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Job, Prepared, Tactic, Unprepared
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.lazy_torch import torch

BUDGET_MS = 4.0


class Missing(Exception):
    """A blob that is not compiled yet."""


class StoredWeights(DictWeights):
    """Zeros for constants, blobs from a dict."""

    def __init__(self, arrays: dict[str, Any], blobs: dict[str, Any]) -> None:
        super().__init__(arrays)
        self.blobs = blobs
        self.missing: tuple[str, Job] | None = None

    def blob(self, key: str, job: Job) -> bytes:
        """A stored blob; Missing otherwise."""
        if key not in self.blobs:
            self.missing = key, job
            raise Missing
        blob = self.blobs[key]
        if isinstance(blob, Unprepared):
            raise blob
        return blob


def cases() -> Iterator[tuple[str, LayerSpec]]:
    """Named layers in float16."""
    half = torch.float16

    def zeros(*shape: int, dtype: torch.dtype = half) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    def conv(
        x: Sequence[int], k: int, r: int, stride: int = 1, residual: bool = False
    ) -> LayerSpec:
        pad = 0 if stride == r else r // 2
        size = [(s + 2 * pad - r) // stride + 1 for s in x[2:]]
        inputs = [zeros(*x), zeros(k, x[1], r, r),
                  zeros(k, 1, 1, dtype=torch.float32)]
        if residual:
            inputs.append(zeros(x[0], k, *size))
        epilogue = "relu(add(add(i0,i1),i2))" if residual else "relu(add(i0,i1))"
        kind = Convolution((stride,) * 2, (pad,) * 2, (pad,) * 2, (1, 1))
        return make_spec(kind, inputs, epilogue, (1, 2))

    def linear(m: int, n: int, k: int, epilogue: str = "add(i0,i1)") -> LayerSpec:
        inputs = [zeros(m, k), zeros(n, k), zeros(n, dtype=torch.float32)]
        if "i2" in epilogue:
            inputs.append(zeros(m, n))
        return make_spec(Matmul(transpose_b=True), inputs, epilogue, (1, 2))

    for batch in (1, 64):
        for c, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
            x = (batch, c, size, size)
            yield f"b{batch} 1x1 {c}->{4 * c} {size} residual", conv(x, 4 * c, 1, residual=True)
            yield f"b{batch} 1x1 {4 * c}->{c} {size}", conv((batch, 4 * c, size, size), c, 1)
            yield f"b{batch} 3x3 {c} {size}", conv(x, c, 3)
        yield f"b{batch} 3x3s2 128 56", conv((batch, 128, 56, 56), 128, 3, 2)
        yield f"b{batch} 1x1s2 256->512 56", conv((batch, 256, 56, 56), 512, 1, 2)
        yield f"b{batch} patches", conv((batch, 3, 224, 224), 768, 16, 16)
        yield f"b{batch} fc", linear(batch, 1000, 2048)
    for name, m in (("vit b1", 197), ("vit b64", 12608), ("bert b1", 384), ("bert b32", 12288)):
        yield f"{name} qkv", linear(m, 2304, 768)
        yield f"{name} project", linear(m, 768, 768, "add(i2,add(i0,i1))")
        yield f"{name} fc1", linear(m, 3072, 768, "gelu(add(i0,i1))")
        yield f"{name} fc2", linear(m, 768, 3072, "add(i2,add(i0,i1))")


def candidates(spec: LayerSpec) -> list[tuple[Tactic, LayerSpec]]:
    """Triton tactics that take a layer, with the layouts they want."""
    found = []
    for tactic in find_tactics("torch2rt.backends.cuda.tactics").values():
        is_ours = ".triton." in tactic.name and spec.kind.name in tactic.kinds
        if is_ours and tactic.supports(spec) is None:
            found += [(tactic, spec.with_layouts(choice)) for choice in tactic.layouts(spec)]
    return found


def prepare(tactic: Tactic, spec: LayerSpec, weights: StoredWeights) -> Prepared | str:
    """The prepared tactic, or why not."""
    try:
        return tactic.prepare(spec, weights)
    except Unprepared as error:
        return str(error)


def run_job(job: Job) -> bytes | Unprepared:
    """In a worker."""
    try:
        return job.run()
    except Unprepared as error:
        return error


def weights_of(spec: LayerSpec, blobs: dict[str, Any]) -> StoredWeights:
    """Zeros."""
    arrays = {
        name: np.zeros(operand.shape, operand.dtype.numpy)
        for name, operand in zip(spec.constants, spec.inputs, strict=True) if name is not None
    }
    return StoredWeights(arrays, blobs)


def compile_all(rows: Sequence[tuple[str, Tactic, LayerSpec]], workers: int) -> dict[str, Any]:
    """Blobs of all candidates."""
    jobs: dict[str, Job] = {}
    for _, tactic, spec in rows:
        weights = weights_of(spec, {})
        try:
            prepare(tactic, spec, weights)
        except Missing:
            assert weights.missing is not None
            jobs.setdefault(*weights.missing)
    print(f"{len(rows)} candidates, {len(jobs)} programs", flush=True)
    with ProcessPoolExecutor(workers) as pool:
        return dict(zip(jobs, pool.map(run_job, jobs.values(), chunksize=4), strict=True))


def bind(backend: CudaBackend, prepared: Prepared, spec: LayerSpec, keep: list[Any]) -> Any:
    """Calls on memory of their own."""
    def buffer(operand: Any, name: str | None) -> Buffer:
        if name is not None:
            return Buffer(operand, constant=name)
        memory = backend.allocate(operand.size_bytes + 256)
        keep.append(memory)
        return Buffer(operand, backend.address(memory))

    inputs = [buffer(s, name) for s, name in zip(spec.inputs, spec.constants, strict=True)]
    outputs = [buffer(s, None) for s in spec.outputs]
    workspace = backend.allocate(prepared.workspace_bytes + 256)
    keep.append(workspace)
    return prepared.bind(inputs, outputs, backend.address(workspace), backend.new_stream())


def main() -> None:
    """Parse arguments, compile in parallel, time, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    for name in ("WORTH_COMPILING", "POINTERS_BESIDE_MAPS", "BOXES_WORTH_COMPILING",
                 "GATHERS_WORTH_COMPILING", "PATCHES_WORTH_COMPILING"):
        setattr(triton_tiles, name, 100)
    backend = CudaBackend(0)
    with backend.building(), Path(arguments.out).open("w", newline="") as file:
        rows = [
            (name, tactic, chosen)
            for name, spec in cases() if arguments.only in name
            for tactic, chosen in candidates(spec)
        ]
        blobs = compile_all(rows, os.cpu_count() or 2)
        writer = csv.writer(file)
        writer.writerow(["layer", "tactic", "time_us", "guess_us"])
        for layer in dict.fromkeys(name for name, *_ in rows):
            for row in time_layer(backend, layer, rows, blobs):
                writer.writerow(row)
            file.flush()


def time_layer(
    backend: CudaBackend, layer: str, rows: Sequence[tuple[str, Tactic, LayerSpec]],
    blobs: dict[str, Any],
) -> list[tuple[Any, ...]]:
    """Measured and guessed time of every candidate of a layer, the fastest first."""
    keep: list[Any] = []
    made = []
    for name, tactic, spec in rows:
        if name != layer:
            continue
        prepared = prepare(tactic, spec, weights_of(spec, blobs))
        if isinstance(prepared, Prepared):
            made.append((tactic, spec, bind(backend, prepared, spec, keep)))
    times = backend.time_calls_us([calls for *_, calls in made], BUDGET_MS)
    table = sorted(
        (time, tactic.name, tactic.estimate_us(spec))
        for time, (tactic, spec, _) in zip(times, made, strict=True)
    )
    best = ", ".join(
        f"{name.split('.')[-1]} {time:.1f} ({guess:.1f})" for time, name, guess in table[:4]
    )
    print(f"{layer}: {best}", flush=True)
    return [(layer, name, f"{time:.2f}", f"{guess:.2f}") for time, name, guess in table]


if __name__ == "__main__":
    main()
