"""Builders of element-wise work, of copies, and of reductions along axes."""

import ctypes
from collections.abc import Sequence

from torch2rt.backends.cpu.onednn.attributes import Attributes
from torch2rt.backends.cpu.onednn.constants import FORWARD_INFERENCE, Algorithm
from torch2rt.backends.cpu.onednn.create import create, pointers
from torch2rt.backends.cpu.onednn.handle import engine
from torch2rt.backends.cpu.onednn.memory import MemoryDesc
from torch2rt.backends.cpu.onednn.primitive import PrimitiveDesc, Recipe


def eltwise(
    algorithm: Algorithm,
    src: MemoryDesc,
    dst: MemoryDesc,
    *,
    alpha: float = 0.0,
    beta: float = 0.0,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Compute dst = f(src; alpha, beta), the formulas of `attributes.Eltwise`; may run in place."""
    arguments = [FORWARD_INFERENCE, algorithm, src.pointer, dst.pointer, alpha, beta]
    return create("eltwise_forward", attributes, arguments, (src, dst))


def binary(
    algorithm: Algorithm,
    src_0: MemoryDesc,
    src_1: MemoryDesc,
    dst: MemoryDesc,
    *,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Compute dst = op(src_0, src_1); axes of src_1 of length 1 are repeated."""
    tensors = (src_0, src_1, dst)
    arguments = [algorithm, *(desc.pointer for desc in tensors)]
    return create("binary", attributes, arguments, tensors)


def prelu(
    src: MemoryDesc,
    weights: MemoryDesc,
    dst: MemoryDesc,
    *,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Keep src where positive, else weights * src; axes of weights of length 1 are repeated."""
    tensors = (src, weights, dst)
    arguments = [FORWARD_INFERENCE, *(desc.pointer for desc in tensors)]
    return create("prelu_forward", attributes, arguments, tensors)


def reduction(
    algorithm: Algorithm,
    src: MemoryDesc,
    dst: MemoryDesc,
    *,
    power: float = 0.0,
    epsilon: float = 0.0,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Reduce every axis where dst has length 1 and src has not (Algorithm.reduction_*)."""
    arguments = [algorithm, src.pointer, dst.pointer, power, epsilon]
    return create("reduction", attributes, arguments, (src, dst))


def concat(
    sources: Sequence[MemoryDesc],
    axis: int,
    dst: MemoryDesc | None = None,
    *,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Join along `axis`; source i is passed as `source_arg(i)`. dst None: oneDNN chooses."""
    array = pointers(sources)
    target = None if dst is None else dst.pointer
    arguments = [target, len(sources), axis, array]
    return create("concat", attributes, arguments, (*sources, dst))


def weighted_sum(
    sources: Sequence[MemoryDesc],
    scales: Sequence[float],
    dst: MemoryDesc | None = None,
    *,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Compute dst = sum of scales[i] * sources[i], passed as `source_arg(i)`."""
    array = pointers(sources)
    factors = (ctypes.c_float * len(sources))(*scales)
    target = None if dst is None else dst.pointer
    arguments = [target, len(sources), factors, array]
    return create("sum", attributes, arguments, (*sources, dst))


def reorder(
    src: MemoryDesc, dst: MemoryDesc, *, attributes: Attributes | None = None
) -> PrimitiveDesc:
    """Copy to another layout or type; scales and zero points of src and dst quantise."""
    chosen = attributes if attributes is not None else Attributes()
    arguments = (src.pointer, engine(), dst.pointer, engine(), chosen.pointer)
    return PrimitiveDesc(Recipe("reorder", arguments, (src, dst), chosen))


def shuffle(
    src: MemoryDesc,
    dst: MemoryDesc,
    axis: int,
    group_size: int,
    *,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Transpose the (group_size, length / group_size) split of `axis` (channel shuffle)."""
    arguments = [FORWARD_INFERENCE, src.pointer, dst.pointer, axis, group_size]
    return create("shuffle_forward", attributes, arguments, (src, dst))
