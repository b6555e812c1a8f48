"""Times our pointwise and layout-changing kernels beside what memory allows.

    python tests/bench/cuda_pointwise.py --out results/cuda_pointwise.csv

Large tensors do not fit the L2 cache and are timed as they are; tensors of batch 1 are warm.
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

from torch2rt.backends.backend import find_tactic
from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.backend import CudaBackend
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.expression import parse_expression
from torch2rt.layers.pointwise import Pointwise
from torch2rt.lazy_torch import torch
from torch2rt.network.dtype import DType

BUDGET_MS = 20.0
_BYTES_PER_US = 4.3e6
_PLAIN, _LAST = Layout.PLAIN, Layout.CHANNELS_LAST
_HALF, _SINGLE = torch.float16, torch.float32


def layer(
    text: str, out: DType, shapes: list[tuple[int, ...]], dtype: torch.dtype, source: Layout,
    target: Layout,
) -> LayerSpec:
    """A pointwise layer; images lie as ``source``, the result as ``target``."""
    inputs = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    spec = make_spec(Pointwise(parse_expression(text), out), inputs)
    layouts = tuple(source if len(shape) == 4 else _PLAIN for shape in shapes)
    return spec.with_layouts(LayoutChoice(layouts, (target,)))


def cases() -> Iterator[tuple[str, LayerSpec]]:
    """The tactic's variant and a layer."""
    half, image = DType.FLOAT16, (3, 224, 224)
    for batch in (64, 1):
        x = (batch, 256, 56, 56)
        yield "vector", layer("relu(add(i0,i1))", half, [x, x], _HALF, _LAST, _LAST)
        gate = [x, (batch, 256, 1, 1)]
        yield "vector", layer("mul(i0,sigmoid(i1))", half, gate, _HALF, _LAST, _LAST)
        yield "vector", layer("gelu(i0)", half, [(batch * 197, 3072)], _HALF, _PLAIN, _PLAIN)
        rows = [(batch, 197, 768), (197, 768)]
        yield "vector", layer("add(i0,i1)", half, rows, _HALF, _PLAIN, _PLAIN)
        cast = [(batch, *image)]
        yield "vector", layer("to_float16(i0)", half, cast, _SINGLE, _PLAIN, _PLAIN)
        yield "transpose", layer("to_float16(i0)", half, cast, _SINGLE, _PLAIN, _LAST)
        yield "transpose", layer("i0", half, cast, _HALF, _PLAIN, _LAST)
        yield "transpose", layer("i0", half, [x], _HALF, _PLAIN, _LAST)
        yield "transpose", layer("i0", half, [x], _HALF, _LAST, _PLAIN)
        last = [(batch, 2048, 7, 7)]
        yield "transpose", layer("i0", half, last, _HALF, _LAST, _PLAIN)
        masks = [(batch // 4 or 1, 21, 513, 513)]
        yield "transpose", layer(
            "to_float32(i0)", DType.FLOAT32, masks, _HALF, _LAST, _PLAIN
        )


def time_us(backend: CudaBackend, tactic: str, spec: LayerSpec) -> float:
    """Median time of one run."""
    operands = [*spec.inputs, *spec.outputs]
    memory = [backend.allocate(operand.size_bytes) for operand in operands]
    buffers = [Buffer(o, m.address) for o, m in zip(operands, memory, strict=True)]
    with backend.building():
        prepared = find_tactic(TACTICS, tactic).prepare(spec, BlobWeights({}))
        calls = prepared.bind(buffers[:-1], buffers[-1:], 0, backend.new_stream())
    (result,) = backend.time_calls_us([calls], BUDGET_MS)
    return result


def main() -> None:
    """Time all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    backend = CudaBackend()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tactic", "layer", "time_us", "floor_us", "floor_fraction"])
        for variant, spec in cases():
            tactic = f"pointwise.cuda.{variant}"
            taken = time_us(backend, tactic, spec)
            size = sum(operand.size_bytes for operand in (*spec.inputs, *spec.outputs))
            floor = size / _BYTES_PER_US
            text = " ".join(map(str, (*spec.inputs, "->", *spec.outputs)))
            writer.writerow([tactic, text, f"{taken:.2f}", f"{floor:.2f}", f"{floor / taken:.2f}"])
            print(f"{tactic:26} {taken:8.2f} us, floor {floor:8.2f} us  {text}", flush=True)


if __name__ == "__main__":
    main()
