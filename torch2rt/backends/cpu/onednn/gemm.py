"""Builders of matrix products."""

from torch2rt.backends.cpu.onednn.attributes import Attributes
from torch2rt.backends.cpu.onednn.constants import FORWARD_INFERENCE
from torch2rt.backends.cpu.onednn.create import create, pointer
from torch2rt.backends.cpu.onednn.memory import MemoryDesc
from torch2rt.backends.cpu.onednn.primitive import PrimitiveDesc


def matmul(
    src: MemoryDesc,
    weights: MemoryDesc,
    bias: MemoryDesc | None,
    dst: MemoryDesc,
    *,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Compute dst (..., m, n) = src (..., m, k) @ weights (..., k, n) + bias (..., 1 or m, n).

    All have the same rank; batch axes of src and weights may be 1 where dst's is not.
    """
    tensors = (src, weights, bias, dst)
    return create("matmul", attributes, [pointer(desc) for desc in tensors], tensors)


def inner_product(
    src: MemoryDesc,
    weights: MemoryDesc,
    bias: MemoryDesc | None,
    dst: MemoryDesc,
    *,
    attributes: Attributes | None = None,
) -> PrimitiveDesc:
    """Compute dst (n, o) = src (n, i...) . weights (o, i...) + bias (o), summed over all of i..."""
    tensors = (src, weights, bias, dst)
    descs = [pointer(desc) for desc in tensors]
    return create("inner_product_forward", attributes, [FORWARD_INFERENCE, *descs], tensors)
