"""Tactics that are kernels of ours: the launches of a layer, bound to buffers.

A tactic's `prepare` returns ``KernelPrepared([Launch(kernel, grid, block, arguments), ...])``.
Arguments are places (`In`, `Out`, `Work`, `Packed`) or numbers (`I32`, `I64`, `F32`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.device import Dim3, Kernel, Memory
from torch2rt.backends.tactic import Call, Prepared


@dataclass(frozen=True, slots=True)
class In:
    """Address of input i. A constant input has none: pack it and pass `Packed`."""

    index: int
    offset_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Out:
    """Address of output i."""

    index: int = 0
    offset_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """Address inside the workspace."""

    offset_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Packed:
    """Device memory that belongs to the prepared tactic, such as packed weights."""

    memory: Memory


@dataclass(frozen=True, slots=True)
class I32:
    """A 32-bit integer."""

    value: int


@dataclass(frozen=True, slots=True)
class I64:
    """A 64-bit integer."""

    value: int


@dataclass(frozen=True, slots=True)
class F32:
    """A 32-bit float."""

    value: float


class Encoded:
    """A parameter made from addresses at bind time, such as a tensor map of the copy engine.

    ``encode(address)`` gives the bytes of the parameter for the tensor at ``place``.
    """

    __slots__ = ("encode", "place", "size_bytes")

    def __init__(self, place: Place, size_bytes: int, encode: Any) -> None:
        self.place = place
        self.size_bytes = size_bytes
        self.encode = encode


Place: TypeAlias = "In | Out | Work | Packed"
Argument: TypeAlias = "Place | I32 | I64 | F32 | Encoded"


@dataclass(frozen=True)
class Launch:
    """One kernel launch of a prepared tactic.

    ``overlaps``: the kernel calls ``griddepcontrol.wait`` (``t2r_wait()``) before it reads what
    another kernel wrote, so that it may be launched early.
    """

    kernel: Kernel
    grid: Dim3
    block: Dim3
    arguments: Sequence[Argument]
    shared_bytes: int = 0
    overlaps: bool = False


class KernelPrepared(Prepared):
    """A tactic whose layer is a few launches of our kernels."""

    def __init__(
        self, launches: Sequence[Launch], *, workspace_bytes: int = 0,
        may_overwrite: tuple[int, ...] = (),
    ) -> None:
        self.launches = tuple(launches)
        self.workspace_bytes = workspace_bytes
        self.may_overwrite = may_overwrite

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call per launch."""
        return [
            (KernelCall(launch, inputs, outputs, workspace, stream), ())
            for launch in self.launches
        ]


class CudaCall:
    """One thing enqueued on a stream when called; its value is a status, 0 when all is well.

    ``moves``: it touches memory of the caller, whose address changes from call to call.
    ``is_capturable``: it may be part of a CUDA graph. A captured call that moves must be a
    `KernelCall`: its node's parameters are replaced.
    """

    moves: bool = False
    is_capturable: ClassVar[bool] = True

    def __init__(self, stream: Any) -> None:
        # A CuPy stream. Replaced by whoever runs the call on another one.
        self.stream = stream

    def __call__(self) -> int:
        """Enqueue on ``self.stream``."""
        raise NotImplementedError

    def enqueue(self, overlaps: bool) -> int:
        """Enqueue; ``overlaps`` says that what runs before on this stream is a kernel.

        A kernel that waits for it by itself may then be launched early.
        """
        return self()


class KernelCall(CudaCall):
    """A launch with its parameters. ``is_dirty`` says that an address has changed."""

    def __init__(
        self, launch: Launch, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int,
        stream: Any,
    ) -> None:
        super().__init__(stream)
        self.launch = launch
        self.is_dirty = False
        self._values: list[Any] = []
        for argument in launch.arguments:
            self._add(argument, inputs, outputs, workspace)
        count = len(self._values)
        self.parameters = (ctypes.c_void_p * max(count, 1))(
            *[ctypes.addressof(value) for value in self._values]
        )

    def _add(
        self, argument: Argument, inputs: Sequence[Buffer], outputs: Sequence[Buffer],
        workspace: int,
    ) -> None:
        if isinstance(argument, I32):
            self._values.append(ctypes.c_int32(argument.value))
        elif isinstance(argument, I64):
            self._values.append(ctypes.c_int64(argument.value))
        elif isinstance(argument, F32):
            self._values.append(ctypes.c_float(argument.value))
        elif isinstance(argument, Encoded):
            self._add_encoded(argument, inputs, outputs, workspace)
        elif isinstance(argument, Packed):
            self._values.append(ctypes.c_uint64(argument.memory.address))
        elif isinstance(argument, Work):
            self._values.append(ctypes.c_uint64(workspace + argument.offset_bytes))
        else:
            self._add_place(argument, inputs, outputs)

    def _add_place(
        self, argument: In | Out, inputs: Sequence[Buffer], outputs: Sequence[Buffer]
    ) -> None:
        buffer = (inputs if isinstance(argument, In) else outputs)[argument.index]
        value = ctypes.c_uint64(buffer.address + argument.offset_bytes)
        self._values.append(value)

        def move(address: int) -> None:
            value.value = address + argument.offset_bytes
            self.is_dirty = True

        self._follow(buffer, move)

    def _add_encoded(
        self, argument: Encoded, inputs: Sequence[Buffer], outputs: Sequence[Buffer],
        workspace: int,
    ) -> None:
        # Tensor maps must start at a multiple of 64 bytes.
        raw = (ctypes.c_char * (argument.size_bytes + 64))()
        start = -ctypes.addressof(raw) % 64
        value = (ctypes.c_char * argument.size_bytes).from_buffer(raw, start)
        self._values.append(value)
        place = argument.place

        def encode(address: int) -> None:
            value[:] = argument.encode(address)
            self.is_dirty = True

        if isinstance(place, Packed):
            encode(place.memory.address)
        elif isinstance(place, Work):
            encode(workspace + place.offset_bytes)
        else:
            buffer = (inputs if isinstance(place, In) else outputs)[place.index]

            def move(address: int) -> None:
                encode(address + place.offset_bytes)

            if not buffer.moves:
                move(buffer.address)
            self._follow(buffer, move)

    def _follow(self, buffer: Buffer, move: Any) -> None:
        if buffer.moves:
            self.moves = True
            buffer.on_move(move)

    def __call__(self) -> int:
        """Launch on ``self.stream``."""
        return self.enqueue(overlaps=False)

    def enqueue(self, overlaps: bool) -> int:
        """Launch on ``self.stream``, early if the kernel waits by itself and ``overlaps``."""
        launch = self.launch
        return launch.kernel.launch(
            launch.grid, launch.block, launch.shared_bytes, self.parameters,
            self.stream.ptr if self.stream is not None else 0, overlaps and launch.overlaps,
        )

    def __str__(self) -> str:
        return f"kernel {self.launch.kernel.name}"


def cuda_call(call: Call) -> CudaCall:
    """The call of this backend that a tactic returned. TypeError for anything else."""
    function, _ = call
    if not isinstance(function, CudaCall):
        raise TypeError(f"{function!r} is not a call of the CUDA backend")
    return function
