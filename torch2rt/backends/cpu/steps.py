"""Steps of a prepared tactic: oneDNN primitives and numpy functions over buffers and workspace.

A tactic's `prepare` describes its steps once through a `StepBuilder`; `bind` then only makes
memories at addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from torch2rt.backends.buffer import Buffer, array_at
from torch2rt.backends.cpu import onednn
from torch2rt.backends.cpu.descriptors import data_type, describe
from torch2rt.backends.cpu.onednn import Arg, Memory, MemoryDesc, Primitive, PrimitiveDesc, Stream
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Call, Prepared, Unprepared, Weights
from torch2rt.network.dtype import Array

ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes are: input or output ``index``, or the workspace; ``offset_bytes`` into it."""

    where: str
    index: int = 0
    offset_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor of a oneDNN step."""

    place: Place
    desc: MemoryDesc


# What a step reads or writes: a place known at bind, or constant memory packed at prepare.
Source: TypeAlias = "Operand | Memory"


@dataclass(frozen=True, slots=True)
class PrimitiveStep:
    """One execution of a primitive."""

    primitive: Primitive
    operands: dict[int, Source]


@dataclass(frozen=True, slots=True)
class ArrayOperand:
    """A row-major tensor of a numpy step, seen through ``view`` if there is one."""

    place: Place
    spec: TensorSpec
    view: Callable[[Array], Array] | None = None

    def at(self, address: int) -> Array:
        """The array, or its view, with the operand's place at an address."""
        array = array_at(address, self.spec)
        return array if self.view is None else self.view(array)


@dataclass(frozen=True, slots=True)
class NumpyStep:
    """``function(*arrays)``; it writes into some of them and returns nothing.

    ``may_overflow``: it computes, so that numpy's floating-point warnings must be silenced.
    """

    function: Callable[..., None]
    operands: tuple[ArrayOperand | Array, ...]
    may_overflow: bool = True


Step: TypeAlias = "PrimitiveStep | NumpyStep"


@dataclass
class StepsPrepared(Prepared):
    """Runs steps in order.

    ``in_place`` are the steps to take instead when output 0 lies at the address of input
    ``may_overwrite[0]``; None when the same steps do.
    """

    steps: tuple[Step, ...]
    workspace_bytes: int = 0
    scratchpad_offset_bytes: int = 0
    may_overwrite: tuple[int, ...] = ()
    in_place: tuple[Step, ...] | None = None

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call per step."""
        steps = self.steps
        if self.in_place is not None:
            if _share_memory(outputs[0], inputs[self.may_overwrite[0]]):
                steps = self.in_place
        binder = _Binder(inputs, outputs, workspace, stream)
        return [binder.bind(step, self.scratchpad_offset_bytes) for step in steps]


def _share_memory(left: Buffer, right: Buffer) -> bool:
    """Whether both lie at one address. Buffers of bindings have none yet, and never share."""
    return left.address == right.address != 0


@dataclass(frozen=True, slots=True)
class _Binder:
    inputs: Sequence[Buffer]
    outputs: Sequence[Buffer]
    workspace: int
    stream: Any

    def bind(self, step: Step, scratchpad_offset_bytes: int) -> Call:
        if isinstance(step, NumpyStep):
            call = NumpyCall(step, self)
            return (call.run_silenced if step.may_overflow else call.run), ()
        memories = {arg: self._memory(source) for arg, source in step.operands.items()}
        scratchpad = step.primitive.desc.scratchpad
        if scratchpad is not None and scratchpad.size_bytes:
            address = self.workspace + scratchpad_offset_bytes
            memories[Arg.scratchpad] = Memory(scratchpad, address)
        stream = self.stream if isinstance(self.stream, Stream) else Stream()
        return onednn.bind(step.primitive, stream, memories)

    def buffer(self, place: Place) -> Buffer | None:
        if place.where == "workspace":
            return None
        return (self.inputs if place.where == "input" else self.outputs)[place.index]

    def address(self, place: Place) -> int:
        buffer = self.buffer(place)
        base = self.workspace if buffer is None else buffer.address
        return base + place.offset_bytes

    def _memory(self, source: Source) -> Memory:
        if isinstance(source, Memory):
            return source
        memory = Memory(source.desc, self.address(source.place))
        buffer = self.buffer(source.place)
        if buffer is not None:
            offset = source.place.offset_bytes
            buffer.on_move(memory.set_address if not offset else partial(_move, memory, offset))
        return memory


def _move(memory: Memory, offset_bytes: int, address: int) -> None:
    memory.set_address(address + offset_bytes)


class NumpyCall:
    """A numpy step on the arrays of one context; they are made anew when a buffer moves."""

    __slots__ = ("_arrays", "_function")

    def __init__(self, step: NumpyStep, binder: _Binder) -> None:
        self._function = step.function
        self._arrays: list[Array] = []
        for position, operand in enumerate(step.operands):
            if not isinstance(operand, ArrayOperand):
                self._arrays.append(operand)
                continue
            self._arrays.append(operand.at(binder.address(operand.place)))
            buffer = binder.buffer(operand.place)
            if buffer is not None:
                buffer.on_move(partial(self._place, position, operand))

    def _place(self, position: int, operand: ArrayOperand, address: int) -> None:
        self._arrays[position] = operand.at(address + operand.place.offset_bytes)

    def run(self) -> None:
        """Call the function."""
        self._function(*self._arrays)

    def run_silenced(self) -> None:
        """Call the function. Floating-point exceptions give inf and nan silently, as in torch."""
        with np.errstate(all="ignore"):
            self._function(*self._arrays)


@dataclass
class StepBuilder:
    """Collects the steps of one layer and lays out its workspace."""

    spec: LayerSpec
    weights: Weights
    steps: list[Step] = field(default_factory=list)
    may_overwrite: tuple[int, ...] = ()
    in_place: tuple[Step, ...] | None = None
    _used_bytes: int = 0
    _scratchpad_bytes: int = 0

    def input(self, index: int, desc: MemoryDesc | None = None) -> Source:
        """Input ``index``; a constant one is packed into ``desc`` now.

        ``desc`` of an input with a buffer must mean the bytes of its spec.
        """
        wanted = desc if desc is not None else describe(self.spec.inputs[index])
        if self.spec.constants[index] is None:
            return Operand(Place("input", index), wanted)
        return self.constant(index, wanted)

    def constant(
        self, index: int, desc: MemoryDesc, view: Callable[[Array], Array] | None = None,
        view_name: str = "",
    ) -> Memory:
        """Constant input ``index``, seen through ``view``, reshaped and packed into ``desc``.

        ``view_name`` tells different views of one constant apart.
        """
        name = self.spec.constants[index]
        if name is None:
            raise Unprepared(f"input {index} is not a constant")
        given = data_type(self.spec.inputs[index].dtype)
        if given is None:
            raise Unprepared(f"oneDNN has no {self.spec.inputs[index].dtype.value}")

        def make() -> Memory:
            array = self.weights.array(name)
            array = view(array) if view is not None else array
            return onednn.pack(array.reshape(desc.dims), desc, given)

        packed = self.weights.packed((name, view_name, *desc_key(desc, self.spec)), make)
        if not isinstance(packed, Memory):
            raise TypeError(f"packed constant {name} is a {type(packed).__name__}")
        return packed

    def scalar(self, value: float, rank: int) -> Memory:
        """One f32 number that broadcasts into ``rank`` axes."""
        desc = MemoryDesc.plain((1,) * max(rank, 1), onednn.DataType.f32)
        array = np.full(desc.dims, value, np.float32)
        return self.literal(("scalar", repr(value), rank), array, desc)

    def literal(self, key: tuple[Any, ...], array: Array, desc: MemoryDesc) -> Memory:
        """Numbers that are no constant of the network, in ``desc``; ``key`` names them."""
        packed = self.weights.packed(
            ("literal", *key, *desc_key(desc, self.spec)), lambda: onednn.pack(array, desc)
        )
        if not isinstance(packed, Memory):
            raise TypeError(f"packed literal {key} is a {type(packed).__name__}")
        return packed

    def output(self, index: int = 0, desc: MemoryDesc | None = None) -> Operand:
        """Output ``index``; ``desc`` must mean the bytes of its spec."""
        wanted = desc if desc is not None else describe(self.spec.outputs[index])
        return Operand(Place("output", index), wanted)

    def take_workspace(self, size_bytes: int) -> Place:
        """Workspace that belongs to the layer from its first step to its last."""
        offset = self._used_bytes
        self._used_bytes += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return Place("workspace", 0, offset)

    def temporary(self, desc: MemoryDesc) -> Operand:
        """A tensor in the workspace."""
        return Operand(self.take_workspace(desc.size_bytes), desc)

    def execute(self, desc: PrimitiveDesc, operands: Mapping[int, Source]) -> None:
        """Add one primitive."""
        self.steps.append(self.primitive_step(desc, operands))

    def primitive_step(
        self, desc: PrimitiveDesc, operands: Mapping[int, Source]
    ) -> PrimitiveStep:
        """A step of one primitive, not added."""
        self._scratchpad_bytes = max(self._scratchpad_bytes, desc.scratchpad_bytes)
        return PrimitiveStep(Primitive(desc), dict(operands))

    def mark(self) -> int:
        """The number of steps so far, for `reset`."""
        return len(self.steps)

    def reset(self, mark: int) -> None:
        """Drop the steps added since a mark; their workspace stays taken."""
        del self.steps[mark:]

    def converted(self, source: Source, desc: MemoryDesc) -> Source:
        """The source in another layout or dtype: a reorder step where it differs."""
        if source.desc == desc:
            return source
        target = self.temporary(desc)
        self.execute(onednn.reorder(source.desc, desc), {Arg.src: source, Arg.dst: target})
        return target

    def array_input(self, index: int) -> ArrayOperand | Array:
        """Row-major input ``index`` for a numpy step."""
        name = self.spec.constants[index]
        if name is not None:
            return self.weights.array(name).reshape(self.spec.inputs[index].shape)
        return ArrayOperand(Place("input", index), self.spec.inputs[index])

    def array_output(self, index: int = 0) -> ArrayOperand:
        """Row-major output ``index`` for a numpy step."""
        return ArrayOperand(Place("output", index), self.spec.outputs[index])

    def call(self, function: Callable[..., None], *operands: ArrayOperand | Array) -> None:
        """Add one numpy step."""
        self.steps.append(NumpyStep(function, operands))

    def copy(self, target: ArrayOperand, source: ArrayOperand | Array) -> None:
        """Add a numpy copy between arrays of one dtype; the source broadcasts."""
        self.steps.append(NumpyStep(np.copyto, (target, source), may_overflow=False))

    def finish(self) -> StepsPrepared:
        """The prepared tactic."""
        return StepsPrepared(
            steps=tuple(self.steps),
            workspace_bytes=self._used_bytes + self._scratchpad_bytes,
            scratchpad_offset_bytes=self._used_bytes,
            may_overwrite=self.may_overwrite,
            in_place=self.in_place,
        )


def desc_key(desc: MemoryDesc, spec: LayerSpec) -> tuple[Any, ...]:
    """Equal for descriptors that mean the same bytes; opaque ones are the layer's own."""
    base = (desc.dims, desc.data_type.name, desc.size_bytes)
    if desc.kind is not onednn.FormatKind.blocked:
        return (*base, spec.code_signature)
    return (*base, desc.strides, desc.inner_blocks, desc.padded_dims)
