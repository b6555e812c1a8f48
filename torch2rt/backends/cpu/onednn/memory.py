"""Memory descriptors (shape, type, layout) and memories (a descriptor at an address)."""

import ctypes
from collections.abc import Sequence

import numpy as np

from torch2rt.backends.cpu.onednn import layout
from torch2rt.backends.cpu.onednn.constants import (
    ANY_TAG,
    MAX_DIMS,
    DataType,
    FormatKind,
    Query,
)
from torch2rt.backends.cpu.onednn.errors import OneDNNArgumentError
from torch2rt.backends.cpu.onednn.handle import Handle, engine, out_pointer, pointer_of
from torch2rt.backends.cpu.onednn.loader import call, library

DimsArray = ctypes.c_int64 * MAX_DIMS


def dims_array(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """`values` as a dnnl_dims_t."""
    if len(values) > MAX_DIMS:
        raise OneDNNArgumentError(where="shape", reason=f"{len(values)} dims, at most {MAX_DIMS}")
    return DimsArray(*values)


class MemoryDesc(Handle):
    """Immutable shape, element type and layout; logical dims are always in torch's order.

    Equal when the library calls them equal: the same bytes mean the same tensor.
    """

    __slots__ = ("data_type", "dims", "kind")

    def __init__(self, pointer: int) -> None:
        """Own a C descriptor; use `plain`, `any` or `tagged` to make one."""
        super().__init__(pointer, "dnnl_memory_desc_destroy")
        self.dims = self._query_dims(Query.dims, self._query_int(Query.ndims_s32))
        self.data_type = DataType(self._query_int(Query.data_type))
        self.kind = FormatKind(self._query_int(Query.format_kind))

    @classmethod
    def plain(
        cls, dims: Sequence[int], data_type: DataType, strides: Sequence[int] | None = None
    ) -> "MemoryDesc":
        """A strided layout; `strides` are in elements, row-major when left out."""
        chosen = layout.row_major_strides(dims) if strides is None else tuple(strides)
        if len(chosen) != len(dims):
            raise OneDNNArgumentError(
                where="MemoryDesc.plain", reason=f"{len(chosen)} strides for {len(dims)} dims"
            )
        cell = out_pointer()
        call(
            "dnnl_memory_desc_create_with_strides",
            ctypes.byref(cell),
            len(dims),
            dims_array(dims),
            data_type,
            dims_array(chosen),
            what=f"describing {data_type.name} {tuple(dims)} with strides {chosen}",
        )
        return cls(pointer_of(cell))

    @classmethod
    def any(cls, dims: Sequence[int], data_type: DataType) -> "MemoryDesc":
        """A descriptor whose layout the primitive is to choose."""
        return cls._with_tag(dims, data_type, ANY_TAG, "any")

    @classmethod
    def tagged(cls, dims: Sequence[int], data_type: DataType, tag: str) -> "MemoryDesc":
        """The layout that oneDNN writes as `tag`: "abcd" (nchw), "acdb" (nhwc), "aBcd16b"..."""
        if tag == "any":
            return cls.any(dims, data_type)
        if layout.is_permutation(tag):
            return cls.plain(dims, data_type, layout.permuted_strides(dims, tag))
        value = layout.tag_values(layout.rank(tag)).get(tag)
        if value is None:
            raise OneDNNArgumentError(where="MemoryDesc.tagged", reason=f"unknown layout {tag!r}")
        return cls._with_tag(dims, data_type, value, tag)

    @classmethod
    def _with_tag(
        cls, dims: Sequence[int], data_type: DataType, value: int, tag: str
    ) -> "MemoryDesc":
        cell = out_pointer()
        call(
            "dnnl_memory_desc_create_with_tag",
            ctypes.byref(cell),
            len(dims),
            dims_array(dims),
            data_type,
            value,
            what=f"describing {data_type.name} {tuple(dims)} as {tag}",
        )
        return cls(pointer_of(cell))

    @classmethod
    def clone_of(cls, pointer: int) -> "MemoryDesc":
        """A copy of a descriptor that the library owns."""
        cell = out_pointer()
        call("dnnl_memory_desc_clone", ctypes.byref(cell), pointer, what="copying a descriptor")
        return cls(pointer_of(cell))

    def submemory(self, dims: Sequence[int], offsets: Sequence[int]) -> "MemoryDesc":
        """The part of `dims` starting at `offsets` (per axis); lives in this one's buffer.

        With zero offsets it is the strided window alone, to be placed by its address.
        """
        cell = out_pointer()
        call(
            "dnnl_memory_desc_create_submemory",
            ctypes.byref(cell),
            self.pointer,
            dims_array(dims),
            dims_array(offsets),
            what=f"taking {tuple(dims)} at {tuple(offsets)} of {self}",
        )
        return MemoryDesc(pointer_of(cell))

    def reshape(self, dims: Sequence[int]) -> "MemoryDesc":
        """The same bytes under other dims. Raises OneDNNError where the layout forbids it."""
        cell = out_pointer()
        call(
            "dnnl_memory_desc_reshape",
            ctypes.byref(cell),
            self.pointer,
            len(dims),
            dims_array(dims),
            what=f"reshaping {self} to {tuple(dims)}",
        )
        return MemoryDesc(pointer_of(cell))

    def permute(self, axes: Sequence[int]) -> "MemoryDesc":
        """The same bytes with axis i of the result being axis `axes[i]` of this, as in torch."""
        inverse = (ctypes.c_int * MAX_DIMS)()
        for position, axis in enumerate(axes):
            inverse[axis] = position
        cell = out_pointer()
        call(
            "dnnl_memory_desc_permute_axes",
            ctypes.byref(cell),
            self.pointer,
            inverse,
            what=f"permuting {self} by {tuple(axes)}",
        )
        return MemoryDesc(pointer_of(cell))

    @property
    def size_bytes(self) -> int:
        """Bytes of the buffer, padding and int8 compensation included (0 for `any`).

        For a submemory: bytes from the start of the parent's buffer to its own last element.
        """
        offset = self.offset_elements
        if offset == 0:
            return library().function("dnnl_memory_desc_get_size")(self.pointer)
        # The library gives 0 for a descriptor with an offset.
        reach = layout.reach_elements(self.padded_dims, self.strides, self.inner_blocks)
        return (offset + reach) * self.data_type.item_bytes

    @property
    def padded_dims(self) -> tuple[int, ...]:
        """Dims rounded up to whole blocks."""
        return self._query_dims(Query.padded_dims, len(self.dims))

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements between outermost blocks per axis; blocked layouts only."""
        return self._query_dims(Query.strides, len(self.dims))

    @property
    def inner_blocks(self) -> tuple[tuple[int, int], ...]:
        """(axis, size) of the innermost blocks, outer to inner; empty for strided layouts."""
        count = self._query_int(Query.inner_nblks_s32)
        axes = self._query_dims(Query.inner_idxs, count)
        return tuple(zip(axes, self._query_dims(Query.inner_blks, count), strict=True))

    @property
    def offset_elements(self) -> int:
        """Where the data starts in the buffer: non-zero for a submemory."""
        cell = ctypes.c_int64()
        self._query(Query.submemory_offset_s64, ctypes.byref(cell))
        return cell.value

    @property
    def is_any(self) -> bool:
        """Whether the layout is left to the primitive."""
        return self.kind == FormatKind.any

    @property
    def is_plain(self) -> bool:
        """Whether the layout is strides alone."""
        return self.kind == FormatKind.blocked and not self.inner_blocks

    @property
    def tag(self) -> str:
        """The library's name of the layout: "abcd", "aBcd16b", "any", or "opaque"."""
        if self.kind != FormatKind.blocked:
            return self.kind.name
        return layout.tag_name(self.padded_dims, self.strides, self.inner_blocks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MemoryDesc):
            return NotImplemented
        equal = library().function("dnnl_memory_desc_equal")
        return bool(equal(self.pointer, other.pointer))

    def __hash__(self) -> int:
        return hash((self.dims, self.data_type))

    def __str__(self) -> str:
        return f"{self.data_type.name} {'x'.join(map(str, self.dims))} {self.tag}"

    def __repr__(self) -> str:
        return f"MemoryDesc({self})"

    def _query(self, what: Query, result: object) -> None:
        call("dnnl_memory_desc_query", self.pointer, what, result, what=f"querying {what.name}")

    def _query_int(self, what: Query) -> int:
        cell = ctypes.c_int()
        self._query(what, ctypes.byref(cell))
        return cell.value

    def _query_dims(self, what: Query, count: int) -> tuple[int, ...]:
        cell = ctypes.POINTER(ctypes.c_int64)()
        self._query(what, ctypes.byref(cell))
        return tuple(cell[:count])


class Memory(Handle):
    """A tensor in memory: a descriptor at an address. The owner of the bytes is kept alive."""

    __slots__ = ("_cell", "_set", "desc", "owner")

    def __init__(self, desc: MemoryDesc, address: int | None = None, owner: object = None) -> None:
        cell = out_pointer()
        call(
            "dnnl_memory_create",
            ctypes.byref(cell),
            desc.pointer,
            engine(),
            address,
            what=f"creating a memory of {desc}",
        )
        super().__init__(pointer_of(cell), "dnnl_memory_destroy")
        self.desc = desc
        self.owner = owner
        self._cell = cell
        self._set = library().function("dnnl_memory_set_data_handle")

    @classmethod
    def of_array(cls, desc: MemoryDesc, array: np.ndarray) -> "Memory":
        """`array`'s bytes, read and written in place. Raises where they are too few."""
        if array.nbytes < desc.size_bytes:
            raise OneDNNArgumentError(
                where="Memory.of_array",
                reason=f"{array.nbytes} bytes given, {desc} takes {desc.size_bytes}",
            )
        return cls(desc, array.ctypes.data, array)

    def set_address(self, address: int) -> None:
        """Point at other bytes; takes effect at the next execution. About 0.3 us."""
        self._set(self._cell, address)
