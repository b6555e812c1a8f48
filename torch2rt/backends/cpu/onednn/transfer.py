"""Between row-major numpy arrays and memories of any layout: weight packing, and inspection."""

import numpy as np
from numpy.typing import NDArray

from torch2rt.backends.cpu.onednn.constants import Arg, DataType
from torch2rt.backends.cpu.onednn.errors import OneDNNArgumentError
from torch2rt.backends.cpu.onednn.handle import Stream
from torch2rt.backends.cpu.onednn.memory import Memory, MemoryDesc
from torch2rt.backends.cpu.onednn.pointwise import reorder
from torch2rt.backends.cpu.onednn.primitive import Primitive, run
from torch2rt.backends.pages import paged_bytes

Array = NDArray[np.generic]

_TYPE_OF_NUMPY = {
    np.dtype(np.float32): DataType.f32,
    np.dtype(np.float16): DataType.f16,
    np.dtype(np.int32): DataType.s32,
    np.dtype(np.int8): DataType.s8,
    np.dtype(np.uint8): DataType.u8,
}


def data_type_of(array: Array) -> DataType:
    """The element type of an array; uint16 is refused, since it may be bf16 or not."""
    if array.dtype not in _TYPE_OF_NUMPY:
        raise OneDNNArgumentError(
            where="data_type_of", reason=f"numpy's {array.dtype} has no single oneDNN type"
        )
    return _TYPE_OF_NUMPY[array.dtype]


def allocate(desc: MemoryDesc) -> Memory:
    """Zeroed, 64-byte aligned memory of its own for a descriptor."""
    return Memory.of_array(desc, paged_bytes(desc.size_bytes))


def pack(array: Array, desc: MemoryDesc, data_type: DataType | None = None) -> Memory:
    """A copy of `array` in the layout and type of `desc`, whose dims it must have.

    `data_type` says what the array holds when numpy cannot (bf16 as uint16).
    """
    if tuple(array.shape) != desc.dims:
        raise OneDNNArgumentError(where="pack", reason=f"array is {array.shape}, desc is {desc}")
    given = data_type if data_type is not None else data_type_of(array)
    # Strides are the array's own: a transposed or sliced view is read where it lies.
    readable = array if min(array.strides, default=0) >= 0 else np.ascontiguousarray(array)
    strides = [stride // readable.itemsize for stride in readable.strides]
    source = Memory(MemoryDesc.plain(desc.dims, given, strides), readable.ctypes.data, readable)
    target = allocate(desc)
    _copy(source, target)
    return target


def unpack(memory: Memory, data_type: DataType | None = None) -> Array:
    """A row-major copy of a memory, converted to `data_type` (its own when left out)."""
    wanted = data_type if data_type is not None else memory.desc.data_type
    array = np.zeros(memory.desc.dims, wanted.numpy_dtype)
    _copy(memory, Memory.of_array(MemoryDesc.plain(memory.desc.dims, wanted), array))
    return array


def _copy(source: Memory, target: Memory) -> None:
    primitive = Primitive(reorder(source.desc, target.desc))
    scratchpad = primitive.desc.scratchpad
    memories = {Arg.src: source, Arg.dst: target}
    if scratchpad is not None:
        memories[Arg.scratchpad] = allocate(scratchpad)
    run(primitive, Stream(), memories)
