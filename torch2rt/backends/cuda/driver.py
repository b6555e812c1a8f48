"""The CUDA driver through ctypes: what CuPy does not offer.

Modules and launches with attributes, parameters of captured kernel nodes, device attributes.
Memory, streams, events and graphs are CuPy's.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_char, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any, ClassVar

from torch2rt.backends.cuda.device import Dim3
from torch2rt.backends.cuda.libraries import load_library

_PROGRAMMATIC_SERIALIZATION = 6
_MAX_DYNAMIC_SHARED = 8
_CAPTURE_ACTIVE = 1
_FUNCTION_REGISTERS = 4


class DriverError(Exception):
    """The driver refused something; the text has its name for why."""


class _Attribute(Structure):
    _fields_: ClassVar = [
        ("id", c_int), ("pad", c_int), ("value", c_int), ("rest", c_char * 60),
    ]


class _LaunchConfig(Structure):
    _fields_: ClassVar = [
        ("grid", c_uint * 3), ("block", c_uint * 3), ("shared_bytes", c_uint),
        ("stream", c_void_p), ("attributes", POINTER(_Attribute)), ("attribute_count", c_uint),
    ]


class _KernelNode(Structure):
    _fields_: ClassVar = [
        ("function", c_void_p), ("grid", c_uint * 3), ("block", c_uint * 3),
        ("shared_bytes", c_uint), ("parameters", c_void_p), ("extra", c_void_p),
        ("kernel", c_void_p), ("context", c_void_p),
    ]


_OVERLAP = _Attribute(_PROGRAMMATIC_SERIALIZATION, 0, 1, b"")


@cache
def driver() -> ctypes.CDLL:
    """libcuda, initialised. LibraryMissing without a driver, DriverError without a GPU."""
    library = load_library("cuda")
    check(library.cuInit(0), "cuInit")
    library.cuLaunchKernelEx.argtypes = [
        POINTER(_LaunchConfig), c_void_p, c_void_p, c_void_p,
    ]
    return library


def check(status: int, what: str) -> None:
    """DriverError unless the status is 0."""
    if status:
        raise DriverError(f"{what}: {status_text(status)}")


def status_text(status: int) -> str:
    """The driver's name of a status."""
    text = ctypes.c_char_p()
    load_library("cuda").cuGetErrorName(status, byref(text))
    return f"{(text.value or b'unknown').decode()} ({status})"


def device_count() -> int:
    """GPUs that this process sees."""
    count = c_int()
    check(driver().cuDeviceGetCount(byref(count)), "cuDeviceGetCount")
    return count.value


def driver_version() -> tuple[int, int]:
    """The newest CUDA that the driver supports."""
    version = c_int()
    check(driver().cuDriverGetVersion(byref(version)), "cuDriverGetVersion")
    return version.value // 1000, version.value % 1000 // 10


def load_function(image: bytes, name: str, shared_bytes: int) -> tuple[c_void_p, c_void_p]:
    """Module and function of a compiled image, in the current context."""
    module, function = c_void_p(), c_void_p()
    check(driver().cuModuleLoadData(byref(module), image), f"loading {name}")
    status = driver().cuModuleGetFunction(byref(function), module, name.encode())
    check(status, f"finding {name} in its image")
    if shared_bytes > 48 * 1024:
        status = driver().cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, shared_bytes)
        check(status, f"{shared_bytes} bytes of shared memory for {name}")
    return module, function


def registers(function: c_void_p) -> int:
    """Registers of a thread of a function."""
    count = c_int()
    status = driver().cuFuncGetAttribute(byref(count), _FUNCTION_REGISTERS, function)
    check(status, "cuFuncGetAttribute")
    return count.value


def launch(
    function: c_void_p, grid: Dim3, block: Dim3, shared_bytes: int, parameters: Any,
    stream: int, overlaps: bool,
) -> int:
    """Enqueue a kernel; the driver's status."""
    config = _LaunchConfig(
        (c_uint * 3)(*grid), (c_uint * 3)(*block), shared_bytes, stream,
        ctypes.pointer(_OVERLAP) if overlaps else None, 1 if overlaps else 0,
    )
    status: int = driver().cuLaunchKernelEx(byref(config), function, parameters, None)
    return status


def captured_node(stream: int) -> c_void_p:
    """The node that was captured last on a stream that is being captured."""
    state, count = c_int(), c_size_t()
    number, graph = c_uint64(), c_void_p()
    nodes, edges = c_void_p(), c_void_p()
    status = driver().cuStreamGetCaptureInfo_v3(
        c_void_p(stream), byref(state), byref(number), byref(graph), byref(nodes), byref(edges),
        byref(count),
    )
    check(status, "reading a capture")
    if state.value != _CAPTURE_ACTIVE or count.value != 1:
        raise DriverError(f"a capture with {count.value} last nodes, in state {state.value}")
    return c_void_p(ctypes.cast(nodes, POINTER(c_void_p))[0])


class KernelNode:
    """A kernel node of an instantiated graph, whose parameters can be replaced."""

    def __init__(
        self, node: c_void_p, function: c_void_p, grid: Dim3, block: Dim3, shared_bytes: int,
        parameters: Any,
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._content = _KernelNode(
            function, (c_uint * 3)(*grid), (c_uint * 3)(*block), shared_bytes,
            ctypes.cast(parameters, c_void_p), None, None, None,
        )

    def update(self, executable_graph: int) -> None:
        """Give the node the present values of its parameters, for launches from now on."""
        status = driver().cuGraphExecKernelNodeSetParams_v2(
            c_void_p(executable_graph), self._node, byref(self._content)
        )
        check(status, "replacing the parameters of a kernel in a graph")
