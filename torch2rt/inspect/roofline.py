"""What a step must at least cost: operations, bytes, and the time of the device's peaks."""

from __future__ import annotations

from torch2rt.backends.backend import Peaks
from torch2rt.backends.spec import LayerSpec
from torch2rt.network.dtype import DType
from torch2rt.network.layer import Cost
from torch2rt.network.tensor import TensorType

# Kinds whose operations are products that matrix units compute; those of others cost no time
# beside the bytes they move.
_MULTIPLYING = frozenset({"attention", "convolution", "deconvolution", "matmul", "recurrent"})
# TF32 runs at half the rate of 16 bits on every GPU that has it.
_TF32_OF_FLOAT16 = 0.5


def step_cost(spec: LayerSpec) -> Cost:
    """Operations and bytes of a layer at concrete shapes: every operand moves once.

    Of a table, only the rows that are taken.
    """
    inputs = [TensorType(tensor.shape, tensor.dtype) for tensor in spec.inputs]
    outputs = [TensorType(tensor.shape, tensor.dtype) for tensor in spec.outputs]
    read = list(spec.inputs)
    if spec.kind.name == "take":
        read[0] = spec.outputs[0]
    moved = sum(tensor.size_bytes for tensor in (*read, *spec.outputs))
    return Cost(spec.kind.flops(inputs[: spec.main_count], outputs), moved)


def floor_us(spec: LayerSpec, peaks: Peaks) -> float:
    """Microseconds that the peaks of the device allow at best."""
    cost = step_cost(spec)
    moving_us = cost.bytes / peaks.bytes_per_s * 1e6
    rate = _flops_per_s(spec, peaks)
    if spec.kind.name not in _MULTIPLYING or rate is None:
        return moving_us
    return max(moving_us, cost.flops / rate * 1e6)


def _flops_per_s(spec: LayerSpec, peaks: Peaks) -> float | None:
    dtype = spec.inputs[0].dtype
    if getattr(spec.kind, "tf32", False):
        half = peaks.flops_per_s.get(DType.FLOAT16)
        return half * _TF32_OF_FLOAT16 if half is not None else None
    return peaks.flops_per_s.get(dtype)
