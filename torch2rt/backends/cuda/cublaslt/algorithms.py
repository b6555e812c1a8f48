"""Descriptors of a product, and the algorithms that the library's heuristics propose for it."""

from __future__ import annotations

import ctypes
import struct
import weakref
from ctypes import byref, c_int, c_int8, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass

from torch2rt.backends.cuda.cublaslt import binding
from torch2rt.backends.cuda.cublaslt.binding import HeuristicResult, check, set_attribute
from torch2rt.backends.cuda.cublaslt.problem import Gemm, Matrix
from torch2rt.backends.tactic import QuickJob, Unprepared
from torch2rt.network.dtype import DType

ALGORITHM_COUNT = 6
MAX_WORKSPACE_BYTES = 32 << 20
# What operands are sure to be aligned to.
ALIGNMENT_BYTES = 16
# Of an algorithm in a blob: the bytes that the library knows it by, and its workspace's size.
_ENTRY = struct.Struct(f"<{binding.ALGORITHM_BYTES}sQ")


@dataclass(frozen=True, slots=True)
class Vectors:
    """Addresses of a bias [n] and, of float8, of scales of the columns [n] and the rows [m]."""

    bias: int
    columns: int = 0
    rows: int = 0


class Descriptors:
    """What the library is told of a product; it takes the right operand first."""

    def __init__(self, gemm: Gemm, vectors: Vectors) -> None:
        library = binding.library()
        self.product = c_void_p()
        mode = binding.COMPUTE_32F_FAST_TF32 if gemm.tf32 else binding.COMPUTE_32F
        scale_type = binding.DATA_TYPES[DType.FLOAT32]
        status = library.cublasLtMatmulDescCreate(byref(self.product), mode, scale_type)
        check(status, "describing a product")
        made = [(library.cublasLtMatmulDescDestroy, self.product)]
        self._release = weakref.finalize(self, _destroy, made)
        self._describe_product(gemm, vectors.bias)
        if gemm.a.dtype is DType.FLOAT8_E4M3:
            self._describe_float8(gemm, vectors)
        self.matrices = []
        for matrix in (gemm.b, gemm.a, gemm.c, gemm.d):
            self.matrices.append(_layout(matrix, gemm.batch))
            made.append((library.cublasLtMatrixLayoutDestroy, self.matrices[-1]))

    def _describe_product(self, gemm: Gemm, bias_address: int) -> None:
        set_ = binding.library().cublasLtMatmulDescSetAttribute
        for attribute, matrix in (
            (binding.DESC_TRANSA, gemm.b), (binding.DESC_TRANSB, gemm.a),
        ):
            operation = binding.OP_T if matrix.is_transposed else binding.OP_N
            set_attribute(set_, self.product, attribute, c_int32(operation))
        epilogue = 0
        if gemm.epilogue.bias is not None:
            epilogue |= binding.EPILOGUE_BIAS
            set_attribute(set_, self.product, binding.DESC_BIAS_POINTER, c_void_p(bias_address))
        if gemm.epilogue.has_gelu:
            epilogue |= binding.EPILOGUE_GELU
        chosen = c_uint32(epilogue or binding.EPILOGUE_DEFAULT)
        set_attribute(set_, self.product, binding.DESC_EPILOGUE, chosen)


    def _describe_float8(self, gemm: Gemm, vectors: Vectors) -> None:
        set_ = binding.library().cublasLtMatmulDescSetAttribute
        set_attribute(set_, self.product, binding.DESC_FAST_SUMS, c_int8(gemm.has_fast_sums))
        if gemm.scale is None:
            return
        for attribute, mode, address in zip(
            binding.DESC_SCALE_POINTERS, binding.DESC_SCALE_MODES, (vectors.columns, vectors.rows),
            strict=True,
        ):
            set_attribute(set_, self.product, mode, c_int32(binding.SCALE_VECTOR))
            set_attribute(set_, self.product, attribute, c_void_p(address))


def _layout(matrix: Matrix, batch: int) -> c_void_p:
    library = binding.library()
    layout = c_void_p()
    status = library.cublasLtMatrixLayoutCreate(
        byref(layout), binding.DATA_TYPES[matrix.dtype], matrix.columns, matrix.rows,
        matrix.row_stride,
    )
    check(status, "describing a matrix")
    if batch > 1:
        set_ = library.cublasLtMatrixLayoutSetAttribute
        set_attribute(set_, layout, binding.LAYOUT_BATCH_COUNT, c_int32(batch))
        set_attribute(set_, layout, binding.LAYOUT_BATCH_STRIDE, c_int64(matrix.batch_stride))
    return layout


def _destroy(made: list[tuple[ctypes._FuncPointer, c_void_p]]) -> None:
    for destroy, target in made:
        destroy(target)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One way to compute a product: the library's own bytes for it."""

    data: bytes
    workspace_bytes: int


@dataclass(frozen=True)
class HeuristicJob(QuickJob):
    """Asks the library for the algorithms of a product on a GPU that this process sees."""

    gemm: Gemm
    gpu: int

    def run(self) -> bytes:
        """Up to `ALGORITHM_COUNT` of them, likely best first. Unprepared if there is none."""
        library = binding.library()
        unread = 256
        descriptors = Descriptors(self.gemm, Vectors(unread, unread, unread))
        preference = _preference()
        results = (HeuristicResult * ALGORITHM_COUNT)()
        count = c_int()
        try:
            status = library.cublasLtMatmulAlgoGetHeuristic(
                binding.handle_of(self.gpu), descriptors.product, *descriptors.matrices,
                preference, ALGORITHM_COUNT, results, byref(count),
            )
        finally:
            library.cublasLtMatmulPreferenceDestroy(preference)
        check(status, "its heuristics")
        found = [result for result in results[: count.value] if result.state == 0]
        if not found:
            raise Unprepared("cuBLASLt proposes no algorithm")
        return b"".join(
            _ENTRY.pack(bytes(result.algorithm), result.workspace_bytes) for result in found
        )


def _preference() -> c_void_p:
    library = binding.library()
    preference = c_void_p()
    check(library.cublasLtMatmulPreferenceCreate(byref(preference)), "creating a preference")
    set_ = library.cublasLtMatmulPreferenceSetAttribute
    limit = c_uint64(MAX_WORKSPACE_BYTES)
    set_attribute(set_, preference, binding.PREFERENCE_WORKSPACE, limit)
    for attribute in binding.PREFERENCE_ALIGNMENTS:
        set_attribute(set_, preference, attribute, c_uint32(ALIGNMENT_BYTES))
    return preference


def read_algorithm(blob: bytes, index: int) -> Algorithm:
    """The ``index``-th algorithm of a job's result. Unprepared if there are fewer."""
    if len(blob) % _ENTRY.size or (index + 1) * _ENTRY.size > len(blob):
        raise Unprepared(f"cuBLASLt proposes {len(blob) // _ENTRY.size} algorithms")
    data, workspace_bytes = _ENTRY.unpack_from(blob, index * _ENTRY.size)
    if workspace_bytes > MAX_WORKSPACE_BYTES:
        raise Unprepared(f"the algorithm needs {workspace_bytes >> 20} MiB of workspace")
    return Algorithm(data, workspace_bytes)
