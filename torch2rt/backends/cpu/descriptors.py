"""Our specs as oneDNN memory descriptors."""

from __future__ import annotations

from functools import lru_cache

from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.onednn import DataType, MemoryDesc
from torch2rt.backends.spec import Layout, TensorSpec, canonical_layout
from torch2rt.backends.tactic import Unprepared
from torch2rt.network.dtype import DType

# bool is stored as one byte holding 0 or 1, which is what u8 holds too.
_DATA_TYPES = {
    DType.FLOAT32: DataType.f32,
    DType.FLOAT16: DataType.f16,
    DType.BFLOAT16: DataType.bf16,
    DType.INT32: DataType.s32,
    DType.INT8: DataType.s8,
    DType.UINT8: DataType.u8,
    DType.BOOL: DataType.u8,
}
MAX_RANK = 6  # oneDNN's own limit is 12, but its fast kernels stop at 5 or 6


def data_type(dtype: DType) -> DataType | None:
    """OneDNN's element type, None where it has none."""
    return _DATA_TYPES.get(dtype)


@lru_cache(maxsize=4096)
def describe(spec: TensorSpec) -> MemoryDesc:
    """The descriptor of a spec; a scalar has one axis. Raises Unprepared for foreign dtypes."""
    element = data_type(spec.dtype)
    if element is None:
        raise Unprepared(f"oneDNN has no {spec.dtype.value}")
    if spec.layout is Layout.PLAIN or spec.rank < 3:
        return MemoryDesc.plain(spec.shape or (1,), element)
    if spec.layout is Layout.CHANNELS_LAST:
        return MemoryDesc.tagged(spec.shape, element, onednn.channels_last_tag(spec.rank))
    tag = onednn.channel_blocked_tag(spec.rank, spec.layout.block)
    return MemoryDesc.tagged(spec.shape, element, tag)


def aligned_shape(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """A shape with leading ones up to a rank, as broadcasting reads it."""
    return (1,) * (rank - len(shape)) + shape


def describe_broadcast(spec: TensorSpec, rank: int) -> MemoryDesc:
    """The descriptor of an operand that broadcasts into a result of that many axes.

    The layout is the spec's when it has all the axes, else row-major with leading ones.
    """
    if spec.rank == rank and not lies_as_plain(spec):
        return describe(spec)
    element = data_type(spec.dtype)
    if element is None:
        raise Unprepared(f"oneDNN has no {spec.dtype.value}")
    return MemoryDesc.plain(aligned_shape(spec.shape, max(rank, 1)), element)


def lies_as_plain(spec: TensorSpec) -> bool:
    """Whether the bytes are those of the row-major layout, whatever the layout's name."""
    return canonical_layout(spec) is Layout.PLAIN


def lie_alike(left: TensorSpec, right: TensorSpec) -> bool:
    """Whether two specs of one shape and dtype mean the same bytes."""
    is_same = (left.shape, left.dtype) == (right.shape, right.dtype)
    return is_same and canonical_layout(left) is canonical_layout(right)
