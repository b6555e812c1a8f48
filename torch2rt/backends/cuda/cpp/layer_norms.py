"""From the spec of a layer norm to our kernel: rows, lanes, grid."""

from __future__ import annotations

import math

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.walks import (
    accumulator_type,
    epilogue_refusal,
    first_overwritten,
    lanes_of_warp,
    make_epilogue,
)
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I64, KernelPrepared, Launch, Out
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Prepared, Refusal, Unprepared, Weights
from torch2rt.kernels.cuda.layer_norm import LayerNormProblem, layer_norm_source
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.strided import (
    Axis,
    contiguous_length,
    count,
    index_type,
    merge_axes,
    vector_size,
)
from torch2rt.layers.layer_norm import LayerNorm

WARP_THREADS = 128
# Threads per multiprocessor of kernels that keep scale and shift and go from row to row.
_STAYING = 512
_WARPS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)


def layer_norm_refusal(spec: LayerSpec) -> Refusal | None:
    """Floats of 16 to 64 bits, an epilogue that reads nothing else."""
    if len(spec.inputs) > spec.main_count:
        return Refusal("an epilogue with operands")
    if not all(tensor.dtype.is_float for tensor in spec.inputs):
        return Refusal("not a float")
    return epilogue_refusal(spec)


def has_whole_rows(spec: LayerSpec) -> bool:
    """Whether the normalised axes are contiguous, in pitched tensors too."""
    axes = _kind(spec).axis_count
    return all(
        contiguous_length(tensor.shape[-axes:], tensor.strides[-axes:]) is not None
        for tensor in (*spec.inputs, *spec.outputs)
    )


def vectors_of(spec: LayerSpec) -> tuple[int, int]:
    """Length of a row in vectors, and elements of a vector."""
    axes = _kind(spec).axis_count
    x, y = spec.inputs[0], spec.outputs[0]
    length = math.prod(x.shape[-axes:])
    vector = vector_size(
        Axis(length, (1, 1)), _rows(x, y, axes), x.dtype.itemsize_bytes, 2
    )
    return length // vector, vector


def warp_lanes(spec: LayerSpec) -> int:
    """Lanes of a warp that share a row."""
    x, y = spec.inputs[0], spec.outputs[0]
    rows = count(_rows(x, y, _kind(spec).axis_count))
    return lanes_of_warp(vectors_of(spec)[0], rows, current_device().multiprocessors)


def block_lanes(spec: LayerSpec) -> int:
    """Threads of a block that share a row: a vector each, or up to four of long rows."""
    vectors = vectors_of(spec)[0]
    held = 1 if vectors <= 256 else 4
    warps = next((n for n in _WARPS if 32 * n * held >= vectors), _WARPS[-1])
    return 32 * warps


def prepare_layer_norm(
    spec: LayerSpec, weights: Weights, lanes: int, threads: int
) -> Prepared:
    """One launch, with so many lanes per row."""
    kind = _kind(spec)
    x, y = spec.inputs[0], spec.outputs[0]
    vectors, vector = vectors_of(spec)
    rows = _rows(x, y, kind.axis_count)
    affine = [c_type(tensor.dtype) for tensor in spec.inputs[1:]]
    problem = LayerNormProblem(
        c_type(x.dtype), accumulator_type(x.dtype), tuple(rows), vectors * vector, vector, lanes,
        threads, kind.eps, kind.is_centered, affine[0] if kind.has_weight else None,
        affine[-1] if kind.has_bias else None, all(spec.constants[1:]),
        index_type([*rows, Axis(vectors * vector, (1, 1))]), c_type(y.dtype),
        make_epilogue(spec, [], accumulator_type(x.dtype)) if spec.epilogue is not None else None,
    )
    kernel = cpp_kernel(weights, "layer_norm", layer_norm_source(problem))
    blocks = -(-count(rows) // (threads // lanes))
    if problem.keeps_affine:
        blocks = min(blocks, current_device().multiprocessors * max(1, _STAYING // threads))
    given = [operand(spec, weights, i) for i in range(len(spec.inputs))]
    arguments = [given[0], Out(0), *given[1:], I64(count(rows))]
    return KernelPrepared(
        [Launch(kernel, (blocks, 1, 1), (threads, 1, 1), arguments, overlaps=True)],
        may_overwrite=first_overwritten(spec),
    )


def _rows(x: TensorSpec, y: TensorSpec, axis_count: int) -> list[Axis]:
    batch = range(x.rank - axis_count)
    return list(merge_axes(Axis(x.shape[i], (x.strides[i], y.strides[i])) for i in batch))


def _kind(spec: LayerSpec) -> LayerNorm:
    if not isinstance(spec.kind, LayerNorm):
        raise Unprepared(f"{spec.kind.name} is not a layer norm")
    return spec.kind
