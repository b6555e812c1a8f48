"""The library: its functions, the numbers of its enumerations, and a handle per GPU.

Names and numbers are those of cublasLt.h, which has kept them since CUDA 11; scales along rows and
columns came with 12.9.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from functools import cache
from typing import Any, ClassVar

from torch2rt.backends.cuda.libraries import LibraryMissing, load_library
from torch2rt.backends.tactic import Unprepared
from torch2rt.network.dtype import DType

DATA_TYPES = {DType.FLOAT32: 0, DType.FLOAT16: 2, DType.BFLOAT16: 14, DType.FLOAT8_E4M3: 28}
COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77
OP_N, OP_T = 0, 1
# Attributes of a product.
DESC_TRANSA, DESC_TRANSB, DESC_EPILOGUE, DESC_BIAS_POINTER = 3, 4, 7, 8
# Of products of float8: scales of the operands, and whether sums keep the bits of tensor cores.
DESC_SCALE_POINTERS, DESC_SCALE_MODES, DESC_FAST_SUMS = (17, 18), (31, 32), 25
SCALE_VECTOR = 3
FIRST_VERSION_WITH_VECTORS = 120900
# What is done to a result; they add up.
EPILOGUE_DEFAULT, EPILOGUE_BIAS, EPILOGUE_GELU = 1, 4, 32
# Attributes of a matrix.
LAYOUT_BATCH_COUNT, LAYOUT_BATCH_STRIDE = 5, 6
# Attributes of a preference.
PREFERENCE_WORKSPACE = 1
PREFERENCE_ALIGNMENTS = (5, 6, 7, 8)

ALGORITHM_BYTES = 64


class HeuristicResult(Structure):
    """One algorithm that the library proposes."""

    _fields_: ClassVar = [
        ("algorithm", c_uint64 * 8), ("workspace_bytes", c_size_t), ("state", c_int),
        ("waves", c_float), ("reserved", c_int * 4),
    ]


_FUNCTIONS: dict[str, list[Any]] = {
    "cublasLtCreate": [POINTER(c_void_p)],
    "cublasLtMatmulDescCreate": [POINTER(c_void_p), c_int, c_int],
    "cublasLtMatmulDescSetAttribute": [c_void_p, c_int, c_void_p, c_size_t],
    "cublasLtMatmulDescDestroy": [c_void_p],
    "cublasLtMatrixLayoutCreate": [POINTER(c_void_p), c_int, c_uint64, c_uint64, c_int64],
    "cublasLtMatrixLayoutSetAttribute": [c_void_p, c_int, c_void_p, c_size_t],
    "cublasLtMatrixLayoutDestroy": [c_void_p],
    "cublasLtMatmulPreferenceCreate": [POINTER(c_void_p)],
    "cublasLtMatmulPreferenceSetAttribute": [c_void_p, c_int, c_void_p, c_size_t],
    "cublasLtMatmulPreferenceDestroy": [c_void_p],
    "cublasLtMatmulAlgoGetHeuristic": [
        *[c_void_p] * 7, c_int, POINTER(HeuristicResult), POINTER(c_int),
    ],
    "cublasLtMatmul": [*[c_void_p] * 13, c_void_p, c_size_t, c_void_p],
}


@cache
def library() -> Any:
    """The library with its prototypes. LibraryMissing when it is not installed."""
    found = load_library("cublasLt")
    for name, arguments in _FUNCTIONS.items():
        getattr(found, name).argtypes = arguments
    found.cublasLtGetVersion.restype = c_size_t
    return found


def missing() -> str | None:
    """Why the library cannot be used, or None."""
    try:
        library()
    except LibraryMissing as error:
        return str(error)
    return None


def version() -> int:
    """The library's version, 130200 for 13.2.0."""
    return int(library().cublasLtGetVersion())


def check(status: int, what: str) -> None:
    """Unprepared unless the status is 0."""
    if status:
        raise Unprepared(f"cuBLASLt: {what} ended with status {status}")


def current_gpu() -> int:
    """Index of the GPU that is current in this thread."""
    import cupy

    return int(cupy.cuda.runtime.getDevice())


@cache
def handle_of(gpu: int) -> c_void_p:
    """The handle of a GPU, made once."""
    import cupy

    made = c_void_p()
    with cupy.cuda.Device(gpu):
        cupy.cuda.runtime.free(0)  # makes the primary context current
        check(library().cublasLtCreate(byref(made)), "creating a handle")
    return made


def set_attribute(function: Any, target: c_void_p, attribute: int, value: Any) -> None:
    """Set one attribute to a ctypes value."""
    status = function(target, attribute, byref(value), ctypes.sizeof(value))
    check(status, f"setting attribute {attribute}")
