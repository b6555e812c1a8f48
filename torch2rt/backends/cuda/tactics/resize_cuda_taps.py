"""Resizes: rows and weights from the host, added up by one thread per vector of channels."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from torch2rt.backends.buffer import VECTOR_BYTES
from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.moves import (
    Move,
    axis_arguments,
    flat_launch,
    in_vectors,
)
from torch2rt.backends.cuda.device import Memory, current_device
from torch2rt.backends.cuda.launch import I32, Argument, KernelPrepared, Out, Packed
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.resize_taps import Taps, resize_taps
from torch2rt.backends.spec import LayerSpec
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.kernels.cuda import resize
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.kernels.cuda.strided import Axis, count
from torch2rt.layers.resize import Resize
from torch2rt.network.dtype import Array, DType

_RAW = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}


class ResizeTaps(Move):
    """Every mode; nearest ones of any dtype."""

    name: ClassVar[str] = "resize.cuda.taps"
    kinds: ClassVar[tuple[str, ...]] = ("resize",)

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """Integers and float8 are not added up."""
        dtype = spec.outputs[0].dtype
        is_nearest = kind_of(spec, Resize).mode.startswith("nearest")
        if not is_nearest and (not dtype.is_float or dtype is DType.FLOAT8_E4M3):
            return Refusal(f"{kind_of(spec, Resize).mode} of {dtype.value}")
        return None

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        source, output = spec.inputs[0], spec.outputs[0]
        kind, dtype = kind_of(spec, Resize), output.dtype
        order = output.memory_order
        spatial = [order.index(axis) for axis in range(2, output.rank)]
        axes = [Axis(output.shape[a], (output.strides[a], source.strides[a])) for a in order]
        vector = _vector(axes, spatial, VECTOR_BYTES // dtype.itemsize_bytes)
        walk = in_vectors(axes, vector)
        taps = [
            resize_taps(kind, source.shape[axis], output.shape[axis], scale)
            for axis, scale in zip(range(2, output.rank), kind.scales, strict=True)
        ]
        is_weighted = any(tap.weights is not None for tap in taps)
        number = np.float64 if dtype is DType.FLOAT64 else np.float32
        arguments: list[Argument] = [operand(spec, weights, 0), Out(0), I32(count(walk))]
        arguments += axis_arguments(walk, len(walk), (1, 0))
        for axis, tap in zip(range(2, output.rank), taps, strict=True):
            scale = kind.scales[axis - 2]
            key = (kind.mode, kind.align_corners, scale, source.shape[axis], output.shape[axis])
            arguments += [
                Packed(_uploaded(weights, (*key, "rows"), tap.rows.astype(np.int32))),
                Packed(_uploaded(weights, (*key, number.__name__), _weights(tap).astype(number))),
            ]
        name = c_type(dtype) if is_weighted else _RAW[dtype.itemsize_bytes]
        code = resize.resize_source(
            name, vector, len(walk), spatial, [len(tap.rows) for tap in taps], is_weighted
        )
        return KernelPrepared([
            flat_launch(weights, resize.NAME, code, resize.THREADS, count(walk), arguments)
        ])


def _vector(axes: list[Axis], spatial: list[int], limit: int) -> int:
    """Elements of a vector: 1 unless the innermost axis is the channels'."""
    if len(axes) - 1 in spatial:
        return 1
    strides = [stride for axis in axes[:-1] for stride in axis.strides]
    return math.gcd(limit, axes[-1].size, *strides)


def _weights(taps: Taps) -> Array:
    return np.ones(taps.rows.shape) if taps.weights is None else taps.weights


def _uploaded(weights: Weights, key: tuple[object, ...], array: Array) -> Memory:
    def make() -> Memory:
        return current_device().upload(np.ascontiguousarray(array))

    memory: Memory = weights.packed(("cuda", "resize", *key), make)
    return memory
