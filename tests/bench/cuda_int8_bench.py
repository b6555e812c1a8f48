"""Times every candidate of ResNet-50's int8 layers, through the engine's own measuring.

    python tests/bench/cuda_int8_bench.py --out int8.csv [--batch 64,256] [--seconds 80] [--tests]

A layer's candidates are compiled in parallel, checked against its reference and timed in turns.
Rows: rank, time, share of the floor (bytes at 4.3 TB/s, operations at 1577 TOPS) and, per batch,
the sum over the network of the best. ``--tests`` first runs the GPU tests of kernels of bytes.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from tactic_testing import DictWeights, make_spec

from torch2rt.backends.cuda.backend import CudaBackend
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.compile_ahead import CompileAhead
from torch2rt.build.measure import Measure, Option
from torch2rt.build.timing_cache import TimingCache
from torch2rt.build.workers import WorkerPool
from torch2rt.errors import NoTacticError
from torch2rt.expression import parse_expression
from torch2rt.layers.adaptive_pool import AdaptivePool
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.matmul import Matmul
from torch2rt.layers.pointwise import Pointwise
from torch2rt.layers.pool import Pool
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType
from torch2rt.network.tensor import TensorType

ROOT = Path(__file__).parent.parent.parent
_BYTES_PER_US, _OPERATIONS_PER_US = 4.3e6, 1577e6
SUM = "add(mul(to_float32(i0),i1),i2)"
TESTS = (
    "tests/backends/cuda/tactics", "tests/kernels/cuda", "tests/kernels/triton",
    "tests/backends/cuda/cudnn",
)


@dataclass(frozen=True)
class Case:
    """A layer, and how often the network has it."""

    name: str
    count: int
    spec: LayerSpec


def requantized(text: str) -> str:
    """Bytes of a float expression, scales folded into what it multiplies by."""
    return f"to_int8(clamp(round({text}),-128.0,127.0))"


RELU = requantized(f"relu({SUM})")
LINEAR = requantized(SUM)
RESIDUAL = requantized(f"relu(add({SUM},to_float32(i3)))")


def convolution(
    x: Sequence[int], k: int, r: int, stride: int = 1, epilogue: str = RELU,
    dtype: DType = DType.INT8,
) -> LayerSpec:
    """A convolution [n, c, h, w] -> k channels, r x r, writing bytes."""
    pad = r // 2
    size = [(s + 2 * pad - r) // stride + 1 for s in x[2:]]
    kind = Convolution((stride,) * 2, (pad,) * 2, (pad,) * 2, (1, 1))
    inputs = [_empty(x, dtype), _empty((k, x[1], r, r), dtype)]
    inputs += [_empty((k, 1, 1), DType.FLOAT32)] * (2 if "i2" in epilogue else 1)
    if "i3" in epilogue:
        inputs.append(_empty((x[0], k, *size), DType.INT8))
    constants = range(1, 4 if "i2" in epilogue else 3)
    return make_spec(kind, inputs, epilogue, constants, DType.INT8)


def _empty(shape: Sequence[int], dtype: DType) -> Any:
    return torch.empty(tuple(shape), dtype=getattr(torch, dtype.value), device="meta")


def cases(batch: int) -> Iterator[Case]:
    """The layers of ResNet-50 between an image of half floats and half scores."""
    image = (batch, 3, 224, 224)
    bytes_of = Pointwise(parse_expression(requantized("mul(i0,40.0)")), DType.INT8)
    yield Case("image", 1, make_spec(bytes_of, [_empty(image, DType.FLOAT16)]))
    yield Case("stem", 1, convolution(image, 64, 7, 2))
    # Instead of both, where the first layer stays in half; not part of the sum.
    half = requantized("relu(add(i0,i1))")
    yield Case("stem of halves", 0, convolution(image, 64, 7, 2, half, DType.FLOAT16))
    pool = Pool("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    yield Case("max pool", 1, make_spec(pool, [_empty((batch, 64, 112, 112), DType.INT8)]))
    channels, size = 64, 56
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 2):
        first = 1 if stage == 2 else 2
        x = (batch, channels, size, size)
        out = 4 * width
        yield Case(f"{stage} reduce first", 1, convolution(x, width, 1))
        if first == 2:
            inner = (batch, width, size, size)
            yield Case(f"{stage} 3x3 first", 1, convolution(inner, width, 3, 2))
        yield Case(f"{stage} shortcut", 1, convolution(x, out, 1, first, LINEAR))
        size //= first
        inner = (batch, width, size, size)
        yield Case(f"{stage} 3x3", blocks + 1 - first, convolution(inner, width, 3))
        yield Case(f"{stage} expand", blocks, convolution(inner, out, 1, 1, RESIDUAL))
        x, channels = (batch, out, size, size), out
        yield Case(f"{stage} reduce", blocks - 1, convolution(x, width, 1))
    mean = make_spec(
        AdaptivePool("mean", (1, 1)), [_empty((batch, 2048, 7, 7), DType.FLOAT16)],
        requantized("mul(i0,20.0)"), (), DType.INT8,
    )
    yield Case("mean", 1, mean)
    factors = [_empty((batch, 2048), DType.INT8), _empty((1000, 2048), DType.INT8)]
    vectors = [_empty((1000,), DType.FLOAT32)] * 2
    kind = Matmul(transpose_b=True)
    yield Case("scores", 1, make_spec(kind, factors + vectors, SUM, (1, 2, 3), DType.FLOAT16))


def named_constants(case: Case, index: int) -> tuple[Case, dict[str, Any]]:
    """The case with constants of its own names, and their random values."""
    names = tuple(
        f"{index}.{name}" if name is not None else None for name in case.spec.constants
    )
    rng = np.random.default_rng(index)
    arrays = {}
    terms = np.prod(case.spec.inputs[1].shape[1:]) if len(names) > 1 else 1
    for position, (name, spec) in enumerate(zip(names, case.spec.inputs, strict=True)):
        if name is None:
            continue
        if spec.dtype is DType.INT8:
            values = rng.integers(-127, 128, spec.shape, np.int8)
        elif position == 2 and case.spec.inputs[0].dtype is DType.INT8:
            values = (0.5 + rng.random(spec.shape)) / (terms**0.5 * 74)
        else:
            values = 20 * rng.standard_normal(spec.shape) / terms**0.5
        arrays[name] = np.asarray(values, spec.dtype.numpy)
    return replace(case, spec=replace(case.spec, name=case.name, constants=names)), arrays


def floor_us(spec: LayerSpec) -> float:
    """The time of moving all operands once, or of multiplying."""
    moved = sum(tensor.size_bytes for tensor in (*spec.inputs, *spec.outputs))
    operations = spec.kind.flops(
        [_type(tensor) for tensor in spec.inputs], [_type(tensor) for tensor in spec.outputs]
    )
    return max(moved / _BYTES_PER_US, operations / _OPERATIONS_PER_US)


def _type(tensor: TensorSpec) -> TensorType:
    return TensorType(tensor.shape, tensor.dtype)


def rows_of(batch: int, case: Case, options: Sequence[Option]) -> list[list[object]]:
    """One row per candidate, the fastest first."""
    floor = floor_us(case.spec)
    moved = sum(t.size_bytes for t in (*case.spec.inputs, *case.spec.outputs))
    return [
        [batch, case.name, case.count, rank, option.tactic.name,
         option.spec.inputs[0].layout.value, f"{option.time_us:.2f}", f"{floor:.2f}",
         f"{floor / max(option.time_us, 1e-3):.2f}",
         f"{moved / max(option.time_us, 1e-3) / 1e3:.0f}", option.is_tuned]
        for rank, option in enumerate(options)
    ]


def run(batch: int, seconds: float, writer: Any, parallel: tuple[Any, ...]) -> None:
    """Tune and print one batch."""
    backend, workers, cache, blobs = parallel
    made = [named_constants(case, index) for index, case in enumerate(cases(batch))]
    arrays = {name: array for _, own in made for name, array in own.items()}
    weights = DictWeights(arrays)
    measure = Measure(
        backend, cache, weights, blobs=blobs, deadline=time.monotonic() + seconds, budget_ms=4.0
    )
    measure.compile_ahead = CompileAhead(backend, weights, blobs, workers)
    total, floors = 0.0, 0.0
    with backend.building():
        measure.tune([case.spec for case, _ in made])
        for case, _ in made:
            try:
                options = measure.options(case.spec)
            except NoTacticError as error:
                print(f"{case.name}: {error}", flush=True)
                continue
            writer.writerows(rows_of(batch, case, options))
            total += case.count * options[0].time_us
            floors += case.count * floor_us(case.spec)
            best = ", ".join(
                f"{o.tactic.name.split('.', 1)[1]} {o.time_us:.1f}{'' if o.is_tuned else '?'}"
                for o in options[:4]
            )
            print(f"b{batch} {case.name} x{case.count} floor {floor_us(case.spec):.1f}: {best}",
                  flush=True)
    measure.close()
    print(f"b{batch} sum {total:.0f} us = {batch / total * 1e3:.1f}k/s, floor {floors:.0f} us",
          flush=True)


def main() -> None:
    """Parse arguments, test, time, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--batch", default="64,256")
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--tests", action="store_true")
    arguments = parser.parse_args()
    if arguments.tests:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-k", "bytes", "-n", "8",
             "--timeout", "100", *TESTS], cwd=ROOT, check=False,
        )
    batches = [int(batch) for batch in arguments.batch.split(",")]
    backend = CudaBackend(0)
    version = backend.compiler_version() or ""
    with (
        WorkerPool(backend.compile_workers) as workers,
        Path(arguments.out).open("w", newline="") as file,
    ):
        parallel = (backend, workers, TimingCache(), BlobCache(None, version))
        writer = csv.writer(file)
        writer.writerow(["batch", "layer", "count", "rank", "tactic", "layout", "time_us",
                         "floor_us", "share", "gb_per_s", "is_timed"])
        for batch in batches:
            run(batch, arguments.seconds / len(batches), writer, parallel)
            file.flush()


if __name__ == "__main__":
    main()
