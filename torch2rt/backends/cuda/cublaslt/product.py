"""A product ready to run: descriptors, algorithm and the places of its operands."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import byref, c_float
from dataclasses import dataclass
from typing import Any

from torch2rt.backends.buffer import Buffer
from torch2rt.backends.cuda.cublaslt import binding
from torch2rt.backends.cuda.cublaslt.algorithms import Algorithm, Descriptors, Vectors
from torch2rt.backends.cuda.cublaslt.problem import Gemm
from torch2rt.backends.cuda.device import Memory
from torch2rt.backends.cuda.launch import CudaCall, In, Out, Packed
from torch2rt.backends.tactic import Call, Prepared

WORKSPACE_ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class Operands:
    """Where the matrices of a product are; the result's is output 0.

    ``scales`` are those of the columns and of the rows.
    """

    a: In | Packed
    b: In | Packed
    c: In | Out
    bias: Memory | None
    scales: tuple[Memory, Memory] | None = None

    @property
    def vectors(self) -> Vectors:
        """Addresses of what is no matrix."""
        columns, rows = (memory.address for memory in self.scales) if self.scales else (0, 0)
        return Vectors(self.bias.address if self.bias is not None else 0, columns, rows)


class Product(Prepared):
    """One call of cublasLtMatmul."""

    def __init__(self, gemm: Gemm, algorithm: Algorithm, operands: Operands, gpu: int) -> None:
        self.descriptors = Descriptors(gemm, operands.vectors)
        self.operands = operands
        self.handle = binding.handle_of(gpu)
        self.algorithm = ctypes.create_string_buffer(algorithm.data, binding.ALGORITHM_BYTES)
        self.library_workspace_bytes = algorithm.workspace_bytes
        if algorithm.workspace_bytes:
            self.workspace_bytes = algorithm.workspace_bytes + WORKSPACE_ALIGNMENT
        self.alpha = c_float(gemm.epilogue.alpha)
        self.beta = c_float(float(gemm.epilogue.residual is not None))
        if gemm.epilogue.residual is not None and gemm.c == gemm.d:
            self.may_overwrite = (gemm.epilogue.residual,)

    def bind(
        self, inputs: Sequence[Buffer], outputs: Sequence[Buffer], workspace: int, stream: Any
    ) -> Sequence[Call]:
        """One call."""
        return [(ProductCall(self, inputs, outputs, workspace, stream), ())]


class ProductCall(CudaCall):
    """A product with the addresses of its operands."""

    def __init__(
        self, product: Product, inputs: Sequence[Buffer], outputs: Sequence[Buffer],
        workspace: int, stream: Any,
    ) -> None:
        super().__init__(stream)
        self._product = product
        self._workspace = -(-workspace // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
        self._addresses = [0, 0, 0, 0]
        places = product.operands
        # The library's first operand is the right one.
        for position, place in enumerate((places.b, places.a, places.c, Out())):
            if isinstance(place, Packed):
                self._addresses[position] = place.memory.address
            else:
                buffer = (inputs if isinstance(place, In) else outputs)[place.index]
                self._follow(position, buffer)

    def _follow(self, position: int, buffer: Buffer) -> None:
        self._addresses[position] = buffer.address
        if buffer.moves:
            self.moves = True
            buffer.on_move(self._mover(position))

    def _mover(self, position: int) -> Callable[[int], None]:
        def move(address: int) -> None:
            self._addresses[position] = address

        return move

    def __call__(self) -> int:
        """Enqueue on ``self.stream``; the library's status."""
        p = self._product
        right, left, addend, result = self._addresses
        of_right, of_left, of_addend, of_result = p.descriptors.matrices
        status: int = binding.library().cublasLtMatmul(
            p.handle, p.descriptors.product, byref(p.alpha), right, of_right, left, of_left,
            byref(p.beta), addend, of_addend, result, of_result, p.algorithm,
            self._workspace if p.library_workspace_bytes else None, p.library_workspace_bytes,
            self.stream.ptr if self.stream is not None else None,
        )
        return status

    def __str__(self) -> str:
        return "cuBLASLt product"
