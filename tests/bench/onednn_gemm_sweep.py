"""Which oneDNN primitive runs the matrix products of BERT-base (sequence 128) fastest.

    chrt -f 5 python tests/bench/onednn_gemm_sweep.py --output tests/bench/results/x.csv

Linear layers (bias, then gelu or a residual as post-ops) as matmul with packed and with plain
weights, as inner product, and as 1x1 convolution; attention products as batched matmul on the
strides that heads have inside a (sequence, 768) matrix. Every implementation of each.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from onednn_sweep_candidates import is_worthwhile
from onednn_sweep_cases import Product, bert_base
from onednn_sweep_measure import Arena, Candidate, machine_line, time_candidates

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.onednn import Algorithm, DataType, MemoryDesc

ARENA_BYTES = 256 << 20
COLUMNS = (
    "product", "count", "batch", "rows", "inner", "columns", "data_type", "variant", "weights",
    "implementation", "cold_us", "hot_us", "gflops", "all_ms", "best",
)  # fmt: skip


def attributes(product: Product, dst: MemoryDesc) -> onednn.Attributes:
    """What follows the product: gelu, or a residual of the result's shape."""
    chain: list[onednn.PostOp] = []
    if product.activation:
        chain.append(onednn.Eltwise(Algorithm.gelu_erf))
    if product.residual:
        chain.append(onednn.Binary(Algorithm.add, dst))
    return onednn.Attributes(chain)


def linear_descs(
    product: Product, data_type: DataType
) -> Iterator[tuple[str, str, onednn.PrimitiveDesc]]:
    """(variant, weights, descriptor) of every primitive that computes a linear layer."""
    rows, inner, columns = product.rows, product.inner, product.columns
    src = MemoryDesc.plain((rows, inner), data_type)
    dst = MemoryDesc.plain((rows, columns), data_type)
    after = attributes(product, dst)
    row = MemoryDesc.plain((1, columns), DataType.f32)
    for tag in ("any", "ab", "ba"):
        weights = MemoryDesc.tagged((inner, columns), data_type, tag)
        yield "matmul", tag, onednn.matmul(src, weights, row, dst, attributes=after)
    bias = MemoryDesc.plain((columns,), DataType.f32)
    tall = MemoryDesc.any((columns, inner), data_type)
    yield "inner_product", "any", onednn.inner_product(src, tall, bias, dst, attributes=after)
    image = MemoryDesc.tagged((1, columns, 1, rows), data_type, "acdb")
    convolved = onednn.convolution(
        MemoryDesc.tagged((1, inner, 1, rows), data_type, "acdb"),
        MemoryDesc.any((columns, inner, 1, 1), data_type),
        bias,
        image,
        strides=(1, 1),
        padding_l=(0, 0),
        padding_r=(0, 0),
        attributes=attributes(product, image),
    )
    yield "convolution", "any", convolved


def attention_descs(
    product: Product, data_type: DataType
) -> Iterator[tuple[str, str, onednn.PrimitiveDesc]]:
    """Batched matmul over heads lying side by side in one row, and over separate heads."""
    heads, rows, inner, columns = product.batch, product.rows, product.inner, product.columns
    is_scores = product.name == "scores"
    width = heads * (inner if is_scores else columns)
    apart = MemoryDesc.plain((heads, rows, columns), data_type)
    plain = MemoryDesc.plain((heads, inner, columns), data_type)
    left = MemoryDesc.plain((heads, rows, inner), data_type)
    yield "matmul heads apart", plain.tag, onednn.matmul(left, plain, None, apart)
    if is_scores:
        src = MemoryDesc.plain((heads, rows, inner), data_type, (inner, width, 1))
        weights = MemoryDesc.plain((heads, inner, columns), data_type, (inner, 1, width))
        yield "matmul heads in rows", weights.tag, onednn.matmul(src, weights, None, apart)
    else:
        weights = MemoryDesc.plain((heads, inner, columns), data_type, (columns, width, 1))
        dst = MemoryDesc.plain((heads, rows, columns), data_type, (columns, width, 1))
        yield "matmul heads in rows", weights.tag, onednn.matmul(left, weights, None, dst)


def candidates(product: Product, data_type: DataType) -> Iterator[Candidate]:
    """Every implementation of every variant, hopeless ones aside."""
    descs = attention_descs if product.batch > 1 else linear_descs
    for variant, weights, first in descs(product, data_type):
        for desc in first.implementations():
            if is_worthwhile(desc.implementation):
                yield Candidate(variant, weights, desc)


def main() -> None:
    """Sweep both types."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sequence", type=int, default=128)
    options = parser.parse_args()
    onednn.set_threads(options.threads)
    arena, stream = Arena(ARENA_BYTES), onednn.Stream()
    with options.output.open("w", newline="") as file:
        file.write(machine_line(options.threads))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for data_type in (DataType.f32, DataType.bf16):
            for product in bert_base(options.sequence):
                found = list(candidates(product, data_type))
                time_candidates(found, arena, stream)
                writer.writerows(rows_of(product, data_type, found))


def rows_of(
    product: Product, data_type: DataType, found: list[Candidate]
) -> Iterator[tuple[object, ...]]:
    """One row per candidate; `all_ms` is what all products of this kind in BERT-base take."""
    best = min(found, key=lambda one: one.cold_us)
    for one in found:
        size = (product.count, product.batch, product.rows, product.inner, product.columns)
        what = (data_type.name, one.variant, one.layout, one.implementation)
        speed = f"{product.flops / one.cold_us / 1e3:.0f}"
        total = f"{product.count * one.cold_us / 1e3:.2f}"
        taken = (f"{one.cold_us:.1f}", f"{one.hot_us:.1f}", speed, total, int(one is best))
        yield (product.name, *size, *what, *taken)


if __name__ == "__main__":
    main()
