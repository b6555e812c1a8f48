"""Python code of plugins on CuPy arrays that share the buffers' memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.launch import CudaCall, Packed
from torch2rt.backends.spec import LayerSpec, TensorSpec
from torch2rt.backends.tactic import Call, Prepared, Weights
from torch2rt.network.dtype import DType

# function(inputs, outputs, workspace, stream)
Run = Callable[[Sequence[Any], Sequence[Any], Any, Any], None]


class ArraysPrepared(Prepared):
    """Calls a function on arrays over inputs, outputs and workspace, in their logical shapes.

    ``is_capturable``: it only launches kernels on the current stream.
    """

    def __init__(
        self, run: Run, spec: LayerSpec, weights: Weights, workspace_bytes: int,
        is_capturable: bool,
    ) -> None:
        self.run = run
        self.spec = spec
        self.operands = [operand(spec, weights, index) for index in range(len(spec.inputs))]
        self.workspace_bytes = workspace_bytes
        self.is_capturable = is_capturable

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call."""
        placed = [
            Buffer(spec, argument.memory.address) if isinstance(argument, Packed) else buffer
            for spec, argument, buffer in zip(
                self.spec.inputs, self.operands, inputs, strict=True
            )
        ]
        cls = ArraysCall if self.is_capturable else UncapturedArraysCall
        return [(cls(self, placed, outputs, workspace, stream), ())]


class ArraysCall(CudaCall):
    """One call of the function, with its stream current."""

    def __init__(
        self, prepared: ArraysPrepared, inputs: Sequence[Buffer], outputs: Sequence[Buffer],
        workspace: int, stream: Any,
    ) -> None:
        super().__init__(stream)
        self.prepared = prepared
        self.moves = any(buffer.moves for buffer in (*inputs, *outputs))
        self._inputs = self._arrays(inputs, prepared.spec.inputs)
        self._outputs = self._arrays(outputs, prepared.spec.outputs)
        scratch = TensorSpec((prepared.workspace_bytes,), DType.UINT8)
        self._workspace = cupy_array(workspace, scratch)

    def _arrays(self, buffers: Sequence[Buffer], specs: Sequence[TensorSpec]) -> list[Any]:
        arrays: list[Any] = []
        for position, (buffer, spec) in enumerate(zip(buffers, specs, strict=True)):
            if not buffer.moves:
                arrays.append(cupy_array(buffer.address, spec))
                continue
            arrays.append(None)

            def move(address: int, position: int = position, spec: TensorSpec = spec) -> None:
                arrays[position] = cupy_array(address, spec)

            buffer.on_move(move)
        return arrays

    def __call__(self) -> int:
        """Run it; what it enqueues on the current stream is ordered with the rest."""
        with self.stream:
            self.prepared.run(self._inputs, self._outputs, self._workspace, self.stream)
        return 0

    def __str__(self) -> str:
        return f"the Python code of {self.prepared.spec.name}"


class UncapturedArraysCall(ArraysCall):
    """A call that no graph takes: it may allocate, synchronise or read values."""

    is_capturable: ClassVar[bool] = False


def cupy_array(address: int, spec: TensorSpec) -> Any:
    """A CuPy array over device memory; bits where numpy has no such dtype."""
    import cupy

    dtype = spec.dtype.numpy
    if spec.element_count == 0 or address == 0:
        return cupy.empty(spec.shape, dtype)
    memory = cupy.cuda.UnownedMemory(address, spec.extent_bytes, None)
    strides = tuple(step * np.dtype(dtype).itemsize for step in spec.strides)
    return cupy.ndarray(spec.shape, dtype, cupy.cuda.MemoryPointer(memory, 0), strides)
