"""Sorting and top k in shared memory, one block per line."""

from __future__ import annotations

import math
from typing import ClassVar

from torch2rt.backends.cuda.constants import operand
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.cpp.moves import Move
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I32, KernelPrepared, Launch, Out
from torch2rt.backends.kinds import kind_of
from torch2rt.backends.spec import LayerSpec, LayoutChoice, plain_choice
from torch2rt.backends.tactic import Prepared, Refusal, Weights
from torch2rt.kernels.cuda import sort
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.layers.sort import Sort
from torch2rt.network.dtype import DType

_SMALLEST, _LARGEST = 64, 16384  # elements of the buffer
_LONG_LINE = 2048  # the buffer of lines that are longer than the largest one


class SortBitonic(Move):
    """Stable, also where torch need not be. Row-major."""

    name: ClassVar[str] = "sort.cuda.bitonic"
    kinds: ClassVar[tuple[str, ...]] = ("sort",)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Lines follow each other."""
        return all(tensor.is_dense for tensor in (*spec.inputs, *spec.outputs))

    def refusal(self, spec: LayerSpec) -> Refusal | None:
        """Lines, or what is kept of long ones, that fit into shared memory."""
        if spec.inputs[0].dtype is DType.FLOAT8_E4M3:
            return Refusal("float8")
        if _buffer_size(spec) is None:
            axis = kind_of(spec, Sort).axis
            return Refusal(
                f"{spec.outputs[0].shape[axis]} of {spec.inputs[0].shape[axis]} elements"
            )
        return None

    def layouts(self, spec: LayerSpec) -> list[LayoutChoice]:
        """Row-major."""
        return [plain_choice(spec)]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """One launch."""
        kind, x = kind_of(spec, Sort), spec.inputs[0]
        size = _buffer_size(spec) or _LARGEST
        threads = min(1024, size // 2)
        dtype = c_type(x.dtype)
        shared = size * (sort.key_bytes(dtype) + 4)
        source = sort.sort_source(dtype, size, threads, kind.is_descending)
        inner = math.prod(x.shape[kind.axis + 1 :])
        numbers = (x.shape[kind.axis], spec.outputs[0].shape[kind.axis], inner)
        lines = x.element_count // x.shape[kind.axis]
        launch = Launch(
            cpp_kernel(weights, sort.NAME, source, shared), (lines, 1, 1), (threads, 1, 1),
            [operand(spec, weights, 0), Out(0), Out(1), *map(I32, numbers)],
            shared_bytes=shared, overlaps=True,
        )
        return KernelPrepared([launch])


def _buffer_size(spec: LayerSpec) -> int | None:
    """Elements that are sorted at once: the line, or several times what is kept of it."""
    kind, x = kind_of(spec, Sort), spec.inputs[0]
    element = sort.key_bytes(c_type(x.dtype)) + 4
    largest = min(_LARGEST, 1 << (current_device().shared_bytes // element).bit_length() - 1)
    length, count = x.shape[kind.axis], spec.outputs[0].shape[kind.axis]
    size = max(_SMALLEST, 1 << (length - 1).bit_length())
    if kind.count is not None and size > _LONG_LINE and count <= _LONG_LINE // 4:
        return _LONG_LINE
    if size <= largest:
        return size
    return largest if count <= largest // 2 else None
