"""The step every builder ends with: one C call that makes a primitive descriptor."""

import ctypes
from collections.abc import Sequence

from torch2rt.backends.cpu.onednn.attributes import Attributes
from torch2rt.backends.cpu.onednn.errors import OneDNNArgumentError
from torch2rt.backends.cpu.onednn.handle import engine
from torch2rt.backends.cpu.onednn.memory import MemoryDesc
from torch2rt.backends.cpu.onednn.primitive import PrimitiveDesc, Recipe


def create(
    operation: str,
    attributes: Attributes | None,
    arguments: Sequence[object],
    tensors: Sequence[MemoryDesc | None],
) -> PrimitiveDesc:
    """Call dnnl_<operation>_primitive_desc_create(desc, engine, *arguments, attributes).

    Raises OneDNNUnsupported where oneDNN has no implementation; `tensors` are for the message.
    """
    chosen = attributes if attributes is not None else Attributes()
    complete = (engine(), *arguments, chosen.pointer)
    return PrimitiveDesc(Recipe(operation, complete, tuple(tensors), chosen))


def pointer(desc: MemoryDesc | None) -> int | None:
    """The descriptor's address; NULL stands for an absent tensor."""
    return None if desc is None else desc.pointer


def pointers(descs: Sequence[MemoryDesc]) -> ctypes.Array[ctypes.c_void_p]:
    """A C array of descriptors."""
    if not descs:
        raise OneDNNArgumentError(where="concat or sum", reason="no source given")
    return (ctypes.c_void_p * len(descs))(*(desc.pointer for desc in descs))


def spatial(where: str, count: int, **values: Sequence[int]) -> None:
    """Check that every per-axis option has one number per spatial axis."""
    for name, numbers in values.items():
        if len(numbers) != count:
            raise OneDNNArgumentError(
                where=where, reason=f"{name} has {len(numbers)} numbers for {count} spatial axes"
            )
