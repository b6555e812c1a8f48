"""Primitive descriptors (what, which implementation), primitives (code), and bound calls."""

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch2rt.backends.cpu.onednn.attributes import Attributes, Binary
from torch2rt.backends.cpu.onednn.constants import POST_OP_BASE, Arg, Query, Status
from torch2rt.backends.cpu.onednn.errors import OneDNNArgumentError
from torch2rt.backends.cpu.onednn.handle import Handle, Stream, out_pointer, pointer_of
from torch2rt.backends.cpu.onednn.loader import CFunction, call, fail, library
from torch2rt.backends.cpu.onednn.memory import Memory, MemoryDesc


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a primitive descriptor: the C call, and what its arguments point into."""

    operation: str
    arguments: tuple[object, ...]
    tensors: tuple[MemoryDesc | None, ...]
    attributes: Attributes

    def make(self) -> int:
        """A new C descriptor. Raises OneDNNUnsupported where there is no implementation."""
        cell = out_pointer()
        name = f"dnnl_{self.operation}_primitive_desc_create"
        call(name, ctypes.byref(cell), *self.arguments, what=f"building {self}")
        return pointer_of(cell)

    def __str__(self) -> str:
        name = self.operation.removesuffix("_forward").replace("_", " ")
        text = f"{name} ({', '.join(str(desc) for desc in self.tensors if desc is not None)})"
        post_ops = ", ".join(map(str, self.attributes.post_ops))
        return f"{text} with {post_ops}" if post_ops else text


class PrimitiveDesc(Handle):
    """One implementation of one operation at fixed shapes: oneDNN's favourite, or a later one.

    The thread count of the creating thread is fixed in it: call `set_threads` first.
    """

    __slots__ = ("recipe",)

    def __init__(self, recipe: Recipe, pointer: int | None = None) -> None:
        """Make the favourite implementation, or own `pointer`, another of the same recipe."""
        super().__init__(pointer or recipe.make(), "dnnl_primitive_desc_destroy")
        self.recipe = recipe

    def __str__(self) -> str:
        return str(self.recipe)

    @property
    def implementation(self) -> str:
        """The library's name of the implementation, for example "jit:avx512_core"."""
        cell = ctypes.c_char_p()
        call(
            "dnnl_primitive_desc_query",
            self.pointer,
            Query.impl_info_str,
            0,
            ctypes.byref(cell),
            what=f"naming the implementation of {self}",
        )
        return (cell.value or b"").decode()

    def implementations(self) -> "Iterator[PrimitiveDesc]":
        """Every implementation of the operation, in oneDNN's order of preference."""
        walker = PrimitiveDesc(self.recipe)
        advance = library().function("dnnl_primitive_desc_next_impl")
        status: int = Status.success
        while status == Status.success:
            # A copy forgets its place in the list, so the walker walks and copies are given out.
            yield walker.copy()
            status = advance(walker.pointer)
        if status != Status.last_impl_reached:
            fail(status, "dnnl_primitive_desc_next_impl", f"building {self}")

    def copy(self) -> "PrimitiveDesc":
        """The same implementation under a handle of its own."""
        cell = out_pointer()
        call("dnnl_primitive_desc_clone", ctypes.byref(cell), self.pointer, what="copying")
        return PrimitiveDesc(self.recipe, pointer_of(cell))

    def arg_desc(self, arg: int) -> MemoryDesc | None:
        """Descriptor of an execution argument as the implementation wants it.

        None where it is unused, or has no descriptor (scales, zero points, prelu weights).
        """
        index = arg // POST_OP_BASE - 1
        if index >= 0 and not self._has_tensor(index):
            # The library would read some other kind of post-op as if it were a binary one.
            return None
        return self._query_md(Query.exec_arg_md, arg)

    def _has_tensor(self, index: int) -> bool:
        post_ops = self.recipe.attributes.post_ops
        return index < len(post_ops) and isinstance(post_ops[index], Binary)

    @property
    def src(self) -> MemoryDesc:
        """Descriptor of the first source."""
        return self._expect(Query.src_md, 0)

    @property
    def weights(self) -> MemoryDesc:
        """Descriptor of the weights."""
        return self._expect(Query.weights_md, 0)

    @property
    def bias(self) -> MemoryDesc | None:
        """Descriptor of the bias, where the operation has one."""
        return self._query_md(Query.weights_md, 1)

    @property
    def dst(self) -> MemoryDesc:
        """Descriptor of the first result."""
        return self._expect(Query.dst_md, 0)

    @property
    def scratchpad(self) -> MemoryDesc | None:
        """Scratch memory of one execution; executions that overlap in time need their own."""
        return self._query_md(Query.scratchpad_md, 0)

    @property
    def workspace(self) -> MemoryDesc | None:
        """Workspace (training only; inference primitives have none)."""
        return self._query_md(Query.workspace_md, 0)

    @property
    def scratchpad_bytes(self) -> int:
        """Bytes of scratch memory, 0 for none."""
        desc = self.scratchpad
        return 0 if desc is None else desc.size_bytes

    def _query_md(self, what: Query, index: int) -> MemoryDesc | None:
        pointer = library().function("dnnl_primitive_desc_query_md")(self.pointer, what, index)
        if not pointer:
            return None
        desc = MemoryDesc.clone_of(pointer)
        return desc if desc.dims else None

    def _expect(self, what: Query, index: int) -> MemoryDesc:
        desc = self._query_md(what, index)
        if desc is None:
            raise OneDNNArgumentError(where=str(self), reason=f"it has no {what.name}[{index}]")
        return desc


class Primitive(Handle):
    """Generated code, immutable and shared: many threads may execute it at once."""

    __slots__ = ("desc",)

    def __init__(self, desc: PrimitiveDesc) -> None:
        cell = out_pointer()
        call("dnnl_primitive_create", ctypes.byref(cell), desc.pointer, what=f"building {desc}")
        super().__init__(pointer_of(cell), "dnnl_primitive_destroy")
        self.desc = desc


class _ExecArg(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_int), ("memory", ctypes.c_void_p))


class _KeepAlive(ctypes.c_void_p):
    """A pointer argument that holds what it points into."""

    kept: object = None


# A mapping's key type is invariant: a dict of Arg alone is not a Mapping[int, ...].
Memories = Mapping[int, Memory] | Mapping[Arg, Memory]
BoundCall = tuple[CFunction, tuple[object, ...]]


def bind(primitive: Primitive, stream: Stream, memories: Memories) -> BoundCall:
    """The call that runs `primitive` once: `function(*arguments)`, which returns a status.

    Everything is converted here, so a step costs one C call. A status other than 0 is an error:
    `if function(*arguments): execution_failed(...)`. The pair keeps all it needs alive; addresses
    may be changed later through `Memory.set_address`. Raises OneDNNArgumentError when a memory is
    missing or laid out differently from what the primitive was built for.
    """
    _check_memories(primitive.desc, memories)
    records = (_ExecArg * len(memories))()
    for record, (arg, memory) in zip(records, memories.items(), strict=True):
        record.arg, record.memory = arg, memory.pointer
    handle = _KeepAlive(primitive.pointer)
    handle.kept = (primitive, stream, tuple(memories.values()))
    arguments = (handle, ctypes.c_void_p(stream.pointer), ctypes.c_int(len(memories)), records)
    return library().execute, arguments


def run(primitive: Primitive, stream: Stream, memories: Memories) -> None:
    """Bind and execute once, checking the status: for weight packing and tests."""
    function, arguments = bind(primitive, stream, memories)
    status = function(*arguments)
    if status:
        execution_failed(status, primitive)


def execution_failed(status: int, primitive: Primitive) -> None:
    """Raise the error for a bound call that returned `status`."""
    fail(status, "dnnl_primitive_execute", f"executing {primitive.desc}")


_REQUIRED = (Arg.src, Arg.dst, Arg.weights, Arg.bias, Arg.scratchpad, Arg.workspace)


def _check_memories(desc: PrimitiveDesc, memories: Memories) -> None:
    for required in _REQUIRED:
        wanted = desc.arg_desc(required)
        if wanted is not None and wanted.size_bytes and required not in memories:
            reason = f"no memory for {required.name} ({wanted})"
            raise OneDNNArgumentError(where=str(desc), reason=reason)
    for arg, memory in memories.items():
        wanted = desc.arg_desc(arg)
        if wanted is not None and wanted != memory.desc:
            name = Arg(arg).name if arg in set(Arg) else str(arg)
            raise OneDNNArgumentError(
                where=str(desc), reason=f"{name} is {memory.desc}, the primitive takes {wanted}"
            )
