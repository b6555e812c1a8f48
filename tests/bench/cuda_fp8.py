"""Linear layers of ViT-B/16 and of a language model in fp16, fp8 and with weights in 8 bits.

    python tests/bench/cuda_fp8.py --out results/cuda_fp8.csv [--seconds 85] [--layers llm]

Per layer and precision, every candidate as a build measures it: compiled in parallel, checked
against the reference, timed. ``ratio`` is the best of a precision beside the best of fp16.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from tactic_testing import DictWeights, make_spec

from torch2rt.backends.cuda.backend import CudaBackend
from torch2rt.backends.spec import LayerSpec
from torch2rt.bench.machine import machine_card
from torch2rt.build.blob_cache import BlobCache
from torch2rt.build.compile_ahead import CompileAhead
from torch2rt.build.measure import Measure, Option
from torch2rt.build.timing_cache import TimingCache
from torch2rt.build.workers import WorkerPool
from torch2rt.errors import NoTacticError
from torch2rt.layers.matmul import Matmul
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import Array, DType
from torch2rt.torch_values import constant_from_torch

BUDGET_MS = 15.0  # for all candidates of a layer
PRECISIONS = ("fp16", "fp8", "int8_weights")
BIAS, RESIDUAL, GELU = "add({},{})", "add(add({},{}),{})", "gelu(add({},{}))"
PLAIN = "{}"


@dataclass(frozen=True)
class Layer:
    """y [m, n] of x [m, k]; ``epilogue`` of the product, a bias and a residual.

    ``feeds`` says that its result is quantized in fp8, as what only products read is.
    """

    name: str
    m: int
    n: int
    k: int
    epilogue: str
    feeds: bool = False

    @property
    def precisions(self) -> tuple[str, ...]:
        """Weights alone in 8 bits are for language models."""
        return PRECISIONS if "llm" in self.name else PRECISIONS[:2]


LAYERS = (
    Layer("vit b64 qkv", 12608, 2304, 768, BIAS),
    Layer("vit b64 proj", 12608, 768, 768, RESIDUAL),
    Layer("vit b64 fc1", 12608, 3072, 768, GELU, feeds=True),
    Layer("vit b64 fc2", 12608, 768, 3072, RESIDUAL),
    *(Layer(f"llm {m} out", m, 4096, 4096, PLAIN) for m in (1, 16, 128, 512, 4096)),
    Layer("llm 512 down", 512, 4096, 14336, PLAIN),
)


def spec_of(layer: Layer, precision: str) -> LayerSpec:
    """The layer as an engine of a precision has it; its constants are named by what they hold."""
    half, n, k = torch.float16, layer.n, layer.k
    factors = {"fp16": (half, half), "fp8": (torch.float8_e4m3fn,) * 2,
               "int8_weights": (half, torch.int8)}[precision]
    tensors = [_empty((layer.m, k), factors[0]), _empty((n, k), factors[1])]
    vectors = [] if precision == "fp16" else ["scale"]
    product = "i0" if precision == "fp16" else "mul(i0,i1)"
    vectors += ["bias"] if layer.epilogue != PLAIN else []
    tensors += [_empty((n,), torch.float32)] * len(vectors)
    tensors += [_empty((layer.m, n), half)] * (layer.epilogue == RESIDUAL)
    operands = [f"i{i}" for i in range(len(tensors) - 1)][-layer.epilogue.count("{}") + 1 :]
    text = layer.epilogue.format(product, *operands)
    is_stored = layer.feeds and precision == "fp8"
    text = f"clamp(mul({text},50.0),-448.0,448.0)" if is_stored else text
    spec = make_spec(
        Matmul(transpose_b=True), tensors, None if text == "i0" else text,
        out_dtype=DType.FLOAT8_E4M3 if is_stored else DType.FLOAT16,
    )
    names = [f"{precision} weight {n}x{k}", *(f"{precision} {v} {n} {k}" for v in vectors)]
    constants = (None, *names, *[None] * (len(tensors) - 1 - len(names)))
    return replace(spec, name=f"{layer.name} {precision}", constants=constants)


def _empty(shape: Sequence[int], dtype: Any) -> Any:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def arrays_of(specs: Sequence[LayerSpec]) -> dict[str, Array]:
    """Random constants: results are about as large as a normal input."""
    arrays: dict[str, Array] = {}
    for spec in specs:
        for name, operand in zip(spec.constants, spec.inputs, strict=True):
            if name is not None and name not in arrays:
                values = _random(operand.shape, operand.dtype, spec.inputs[1].shape[1])
                arrays[name] = constant_from_torch(values)[0]
    return arrays


def _random(shape: Sequence[int], dtype: DType, k: int) -> Any:
    generator = torch.Generator().manual_seed(len(shape) * k)
    values = torch.randn(tuple(shape), generator=generator)
    if dtype is DType.FLOAT32:  # scales, and as good for a bias
        return (1 + values.abs()) * k**-0.5 / 100
    if dtype is DType.FLOAT16:
        return (values * k**-0.5).half()
    values *= 32 if dtype is DType.INT8 else 100
    return values.clamp(-127, 127).to(getattr(torch, dtype.value))


def rows_of(layer: Layer, precision: str, options: Sequence[Option], fp16_us: float) -> list[Any]:
    """One row per candidate, the fastest first."""
    flops = 2 * layer.m * layer.n * layer.k
    return [
        [layer.name, layer.m, layer.n, layer.k, precision, rank, option.tactic.name,
         f"{option.time_us:.2f}", f"{flops / max(option.time_us, 1e-3) / 1e6:.0f}",
         f"{option.time_us / fp16_us:.3f}" if fp16_us else ""]
        for rank, option in enumerate(options)
    ]


def run(layers: Sequence[Layer], measure: Measure, specs: Sequence[LayerSpec], writer: Any) -> None:
    """Tune, print and write."""
    measure.tune(specs)
    found = iter(specs)
    for layer in layers:
        fp16_us = 0.0
        for precision in layer.precisions:
            try:
                options = [o for o in measure.options(next(found)) if o.is_tuned]
            except NoTacticError as error:
                print(f"{layer.name} {precision}: {error}", flush=True)
                continue
            if not options:
                print(f"{layer.name} {precision}: there was no time for it", flush=True)
                continue
            if precision == "fp16":
                fp16_us = options[0].time_us
            rows = rows_of(layer, precision, options, fp16_us)
            writer.writerows(rows)
            best = ", ".join(
                f"{option.tactic.name.split('.', 1)[1]} {option.time_us:.1f}"
                for option in options[:6]
            )
            print(f"{layer.name:14} {precision:12} {rows[0][-1]}: {best}", flush=True)


def main() -> None:
    """Parse arguments, time, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=85.0)
    parser.add_argument("--layers", default="", help="part of layers' names")
    parser.add_argument("--log", type=Path, help="file for why candidates failed")
    arguments = parser.parse_args()
    if arguments.log is not None:
        logging.basicConfig(filename=arguments.log, level=logging.DEBUG)
    deadline = time.monotonic() + arguments.seconds
    layers = [layer for layer in LAYERS if arguments.layers in layer.name]
    specs = [spec_of(layer, precision) for layer in layers for precision in layer.precisions]
    backend = CudaBackend(0)
    weights = DictWeights(arrays_of(specs))
    blobs = BlobCache(None, backend.compiler_version() or "")
    measure = Measure(
        backend, TimingCache(), weights, blobs=blobs, deadline=deadline, budget_ms=BUDGET_MS
    )
    with (
        WorkerPool(backend.compile_workers) as workers,
        arguments.out.open("w", newline="", encoding="utf-8") as file,
        backend.building(),
    ):
        measure.compile_ahead = CompileAhead(backend, weights, blobs, workers)
        file.writelines(f"# {line}\n" for line in machine_card().lines())
        writer = csv.writer(file)
        writer.writerow(["layer", "m", "n", "k", "precision", "rank", "tactic", "time_us",
                         "tflops", "ratio"])
        run(layers, measure, specs, writer)
    measure.close()


if __name__ == "__main__":
    main()
